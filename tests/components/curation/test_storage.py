import os
from pathlib import Path

import pytest
from pyarrow import fs

from components.curation.reasons import Reason, Rejected
from components.curation.storage import list_files, matching_files, open_file, read_picture_file, state_of
from tests.components.curation.bucket import bucket, upload  # noqa: F401

MAX_BYTES = 1000


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("none.jpg", Reason.IMAGE_MISSING),
        ("a.jpg/b.jpg", Reason.IMAGE_MISSING),
        ("nul\0.jpg", Reason.IMAGE_MISSING),
        ("x" * 5000, Reason.IMAGE_MISSING),
        ("../outside.jpg", Reason.PATH_ESCAPES_ROOT),
        ("/etc/passwd", Reason.PATH_ESCAPES_ROOT),
        ("link.jpg", Reason.PATH_ESCAPES_ROOT),
        ("folder", Reason.NOT_A_FILE),
        ("pipe.jpg", Reason.NOT_A_FILE),
        ("large.jpg", Reason.FILE_TOO_LARGE),
    ],
)
def test_read_picture_file_rejects_what_is_no_picture_file_below_the_root(
    tmp_path: Path, reference: str, reason: Reason
) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (tmp_path / "outside.jpg").write_bytes(b"secret")
    (root / "a.jpg").write_bytes(b"picture")
    (root / "large.jpg").write_bytes(b"1" * (MAX_BYTES + 1))
    (root / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    os.mkfifo(root / "pipe.jpg")
    with pytest.raises(Rejected) as caught:
        read_picture_file(str(root), reference, MAX_BYTES)
    assert caught.value.reason is reason
    assert str(tmp_path) not in caught.value.detail


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


def test_a_picture_under_another_extension_is_found(tmp_path: Path) -> None:
    """OCR-VQA: the records say .jpg, the download has .gif or .png for some."""
    (tmp_path / "ocr_vqa/images").mkdir(parents=True)
    (tmp_path / "ocr_vqa/images/1437717772.gif").write_bytes(b"GIF89a")
    found = read_picture_file(str(tmp_path), "ocr_vqa/images/1437717772.jpg", MAX_BYTES)
    assert found == (b"GIF89a", "ocr_vqa/images/1437717772.gif")
    for missing in ("ocr_vqa/images/1437717773.jpg", "ocr_vqa/images/1437717772", "a.b/c"):
        with pytest.raises(Rejected) as caught:
            read_picture_file(str(tmp_path), missing, MAX_BYTES)
        assert (caught.value.reason, caught.value.detail) == (Reason.IMAGE_MISSING, missing)


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
    for name in ("b.jpg", "sub/c.png", "a.jpg", "large.jpg"):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes(name.encode() * (1 + MAX_BYTES * (name == "large.jpg")))
    place = upload(root, bucket, "pictures")
    files = list(list_files(place))
    assert [file[:2] for file in files] == [file[:2] for file in list_files(str(root))]
    assert state_of(f"{place}/a.jpg") == files[0]
    assert matching_files(f"{place}/*.jpg") == [f"{place}/{name}" for name in ("a.jpg", "b.jpg", "large.jpg")]
    for reference in ("a.jpg", "sub/c.png", "sub/c.jpg"):
        assert read_picture_file(place, reference, MAX_BYTES) == read_picture_file(str(root), reference, MAX_BYTES)
    with open_file(f"{place}/sub/c.png") as file:
        assert (file.read(3), file.seek(1), file.read()) == (b"sub", 1, b"ub/c.png")
    for reference, reason in (
        ("none.jpg", Reason.IMAGE_MISSING),
        ("sub", Reason.NOT_A_FILE),
        ("../pictures/a.jpg", Reason.PATH_ESCAPES_ROOT),
        ("/etc/passwd", Reason.PATH_ESCAPES_ROOT),
        ("s3://downloads/pictures/a.jpg", Reason.PATH_ESCAPES_ROOT),
        ("large.jpg", Reason.FILE_TOO_LARGE),
    ):
        with pytest.raises(Rejected) as caught:
            read_picture_file(place, reference, MAX_BYTES)
        assert caught.value.reason is reason
    with pytest.raises(ValueError, match="no such file"):
        matching_files(f"{place}/*.tar")
