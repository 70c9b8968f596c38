import os
from pathlib import Path

import pytest
from pyarrow import fs

from components.files.storage import list_files, matching_files, open_file, state_of
from tests.components.files.bucket import bucket, upload  # noqa: F401


def test_list_files_is_sorted_and_relative_and_says_what_changed(tmp_path: Path) -> None:
    for name in ("b.jpg", "sub/c.jpg", "a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to("nowhere")
    files = list(list_files(str(tmp_path)))
    assert [file.name for file in files] == ["a.jpg", "b.jpg", "link.jpg", "sub/c.jpg"]
    assert [file.num_bytes for file in files] == [1, 1, 0, 1]
    assert state_of(f"{tmp_path}/a.jpg") == files[0]
    os.utime(tmp_path / "a.jpg", (1, 1))
    assert state_of(f"{tmp_path}/a.jpg").modified != files[0].modified


def test_files_match_wild_cards_in_order_and_hidden_ones_do_not(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", ".c.tar", "_d.tar", "e.json", "sub/f.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert matching_files(f"{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    assert matching_files(f"{tmp_path}/e.json") == [f"{tmp_path}/e.json"]
    with pytest.raises(ValueError, match=r"\*\.csv: no such file; is this the right folder"):
        matching_files(f"{tmp_path}/*.csv")
    with pytest.raises(ValueError, match="no such file"):
        matching_files(f"{tmp_path}/nowhere/*.tar")


def test_a_bucket_reads_as_a_folder(tmp_path: Path, bucket: fs.S3FileSystem) -> None:  # noqa: F811
    root = tmp_path / "root"
    for name in ("b.jpg", "sub/c.png", "a.jpg"):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes(name.encode())
    place = upload(root, bucket, "pictures")
    files = list(list_files(place))
    assert [file[:2] for file in files] == [file[:2] for file in list_files(str(root))]
    assert state_of(f"{place}/a.jpg") == files[0]
    assert matching_files(f"{place}/*.jpg") == [f"{place}/{name}" for name in ("a.jpg", "b.jpg")]
    with open_file(f"{place}/sub/c.png") as file:
        assert (file.read(3), file.seek(1), file.read()) == (b"sub", 1, b"ub/c.png")
    with pytest.raises(ValueError, match="no such file"):
        matching_files(f"{place}/*.tar")
