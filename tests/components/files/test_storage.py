import errno
import os
import socket
from functools import partial
from pathlib import Path

import pytest
from pyarrow import fs

from components.files.listing import list_files
from components.files.storage import (
    FileTooLargeError,
    file_system,
    is_storage_fault,
    matching_files,
    open_file,
    printable,
    read_file,
    state_of,
)
from tests.components.files.bucket import bucket, upload  # noqa: F401


def test_list_files_is_sorted_and_relative_and_says_what_changed(tmp_path: Path) -> None:
    for name in ("b.jpg", "sub/c.jpg", "a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to("nowhere")
    (tmp_path / "sub/loop.jpg").symlink_to("loop.jpg")
    files = list(list_files(str(tmp_path), ()))
    assert [file.name for file in files] == [
        "a.jpg",
        "b.jpg",
        "link.jpg",
        "sub/c.jpg",
        "sub/loop.jpg",
    ]
    assert [file.num_bytes for file in files] == [1, 1, 0, 1, 0]
    assert state_of(f"{tmp_path}/a.jpg") == files[0]
    os.utime(tmp_path / "a.jpg", (1, 1))
    assert state_of(f"{tmp_path}/a.jpg").modified != files[0].modified


def test_files_match_wild_cards_in_order_and_hidden_ones_do_not(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", ".c.tar", "_d.tar", "e.json", "sub/f.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert matching_files(f"{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    assert matching_files(f"{tmp_path}/e.json") == [f"{tmp_path}/e.json"]
    (tmp_path / "lost.tar").symlink_to("nowhere")
    assert f"{tmp_path}/lost.tar" in matching_files(f"{tmp_path}/*.tar")  # whoever opens it says so
    with pytest.raises(ValueError, match=r"\*\.csv: no such file; is this the right folder"):
        matching_files(f"{tmp_path}/*.csv")
    with pytest.raises(ValueError, match="no such file"):
        matching_files(f"{tmp_path}/nowhere/*.tar")


def test_a_bucket_reads_as_a_folder(tmp_path: Path, bucket: fs.S3FileSystem) -> None:
    root = tmp_path / "root"
    for name in ("b.jpg", "sub/c.png", "a.jpg"):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes(name.encode())
    place = upload(root, bucket, "pictures")
    files = list(list_files(place, ()))
    assert [file[:2] for file in files] == [file[:2] for file in list_files(str(root), ())]
    assert state_of(f"{place}/a.jpg") == files[0]
    assert matching_files(f"{place}/*.jpg") == [f"{place}/{name}" for name in ("a.jpg", "b.jpg")]
    with open_file(f"{place}/sub/c.png") as file:
        assert (file.read(3), file.seek(1), file.read()) == (b"sub", 1, b"ub/c.png")
    with pytest.raises(ValueError, match="no such file"):
        matching_files(f"{place}/*.tar")


def test_a_file_of_a_folder_and_of_a_bucket_is_read_whole_or_refused_alike(
    tmp_path: Path,
    bucket: fs.S3FileSystem,
) -> None:
    root = tmp_path / "root"
    for name in ("plain.jpg", "sub/with space, #1 and 100%.jpg"):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes(name.encode())
    for place in (str(root), upload(root, bucket, "files")):
        assert read_file(f"{place}/plain.jpg", 9) == b"plain.jpg"
        assert read_file(f"{place}/sub/with space, #1 and 100%.jpg", 99).startswith(b"sub/with")
        with pytest.raises(FileTooLargeError, match="9 bytes, more than 8"):
            read_file(f"{place}/plain.jpg", 8)
        with pytest.raises(FileNotFoundError):
            read_file(f"{place}/none.jpg", 9)
        with pytest.raises(IsADirectoryError):
            read_file(f"{place}/sub", 9)


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(IsADirectoryError):
        read_file(str(tmp_path / "pipe.jpg"), 9)


def test_all_files_of_a_bucket_share_one_connection(bucket: fs.S3FileSystem) -> None:
    assert file_system("s3://downloads/a.jpg")[0] is file_system("s3://downloads/b/c.jpg")[0]
    with pytest.raises(
        ValueError, match=r"https://host/a\.jpg: cannot be opened.*use a path, s3://"
    ):
        file_system("https://host/a.jpg")


def test_a_bucket_that_goes_away_is_a_fault_of_the_storage(bucket: fs.S3FileSystem) -> None:
    with bucket.open_output_stream("downloads/long.tar") as stream:
        stream.write(bytes(3 << 20))
    with open_file("s3://downloads/long.tar") as file:
        file.read(10)
        bucket.delete_file("downloads/long.tar")
        with pytest.raises(OSError, match="reading stopped") as caught:
            file.read()
    assert is_storage_fault(caught.value)
    assert not is_storage_fault(FileNotFoundError(errno.ENOENT, "gone"))
    assert not is_storage_fault(EOFError())


@pytest.mark.parametrize("place", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_devices_are_not_opened(place: str) -> None:
    for read in (open_file, partial(read_file, max_bytes=10)):
        with pytest.raises(OSError):  # noqa: PT011 - /dev/tty may not be there
            read(place)


def test_pipes_and_sockets_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "socket"))
        for name in ("pipe", "socket", "."):
            with pytest.raises(IsADirectoryError):
                open_file(f"{tmp_path}/{name}")


def test_a_file_that_becomes_a_pipe_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at it and its opening; without a writer that would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    status = os.stat(tmp_path / "file")
    monkeypatch.setattr(os, "stat", lambda _: status)
    with pytest.raises(IsADirectoryError):
        open_file(f"{tmp_path}/pipe")


@pytest.mark.parametrize("place", ["/proc/kmsg", "/proc/self/maps", "/proc/self/mem"])
def test_files_of_no_size_have_no_content(place: str) -> None:
    """The kernel's own are as long as one reads, some without end."""
    try:
        assert read_file(place, 1000) == b""
        with open_file(place) as file:
            assert file.read() == b""
    except PermissionError:
        pass


def test_a_file_that_grows_is_read_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "growing"
    path.write_bytes(b"12345")
    whole = os.fstat

    def grow(descriptor: int) -> os.stat_result:
        status = whole(descriptor)
        with path.open("ab") as file:
            file.write(b"6" * 1000)
        return status

    monkeypatch.setattr(os, "fstat", grow)
    with pytest.raises(FileTooLargeError):
        read_file(str(path), 1000)
    assert read_file(str(path), 10_000)[:5] == b"12345"


def test_names_that_are_no_text_can_be_printed() -> None:
    assert printable("é") == "é"
    assert printable("\udcff.jpg") == r"\xff.jpg"
    assert printable("\ud800.jpg") == r"\ud800.jpg"


def test_matching_files_takes_brackets_as_they_are_and_names_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a[1].tar").write_bytes(b"1")
    assert (
        matching_files(f"{tmp_path}/a[1].tar")
        == matching_files(f"{tmp_path}/a[1]*")
        == [f"{tmp_path}/a[1].tar"]
    )
    monkeypatch.chdir(tmp_path)
    assert matching_files("*.tar") == ["a[1].tar"]
