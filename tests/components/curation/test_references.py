import errno
import os
from pathlib import Path

import pytest
from pyarrow import fs

from components.curation.reasons import Reason, Rejected
from components.curation.references import read_picture_file
from tests.components.files.bucket import bucket, upload  # noqa: F401

MAX_BYTES = 1000


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("none.jpg", Reason.IMAGE_MISSING),
        ("a.jpg/b.jpg", Reason.IMAGE_MISSING),
        ("nul\0.jpg", Reason.IMAGE_MISSING),
        ("x" * 5000, Reason.IMAGE_MISSING),
        ("../outside.jpg", Reason.PATH_ESCAPES_ROOT),
        ("../nowhere.jpg", Reason.PATH_ESCAPES_ROOT),
        ("/etc/passwd", Reason.PATH_ESCAPES_ROOT),
        ("link.jpg", Reason.PATH_ESCAPES_ROOT),
        ("loop.jpg", Reason.IMAGE_MISSING),
        ("loop/a.jpg", Reason.IMAGE_MISSING),
        ("allowed/../outside.jpg", Reason.PATH_ESCAPES_ROOT),
        ("../allowed/a", Reason.PATH_ESCAPES_ROOT),
        ("allowed", Reason.NOT_A_FILE),
        ("allowed/pipe", Reason.NOT_A_FILE),
        ("to-pipe.jpg", Reason.NOT_A_FILE),
        ("null.jpg", Reason.PATH_ESCAPES_ROOT),
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
    (root / "loop.jpg").symlink_to("loop.jpg")
    (root / "loop").symlink_to("loop")
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed" / "a").write_bytes(b"picture")
    (root / "allowed").symlink_to(tmp_path / "allowed")
    (root / "to-pipe.jpg").symlink_to(tmp_path / "allowed" / "pipe")
    (root / "null.jpg").symlink_to("/dev/null")
    os.mkfifo(root / "pipe.jpg")
    os.mkfifo(tmp_path / "allowed" / "pipe")
    with pytest.raises(Rejected) as caught:
        read_picture_file(str(root), reference, MAX_BYTES, (str(tmp_path / "allowed"),))
    assert caught.value.reason is reason
    assert str(tmp_path) not in caught.value.detail


def test_a_link_into_an_allowed_root_is_followed(tmp_path: Path) -> None:
    """As DVC's `cache.type symlink` and the cache of Hugging Face lay out a folder."""
    for folder in ("root", "cache/ab"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "cache/ab/cdef").write_bytes(b"picture")
    (tmp_path / "root/a.jpg").symlink_to(tmp_path / "cache/ab/cdef")
    (tmp_path / "root/b.png").symlink_to("../cache/ab/cdef")
    root, allowed = str(tmp_path / "root"), (str(tmp_path / "cache"),)
    assert read_picture_file(root, "a.jpg", MAX_BYTES, allowed) == (b"picture", "a.jpg")
    assert read_picture_file(root, "b.jpg", MAX_BYTES, allowed) == (b"picture", "b.png")
    for roots in ((), (str(tmp_path / "cac"),)):
        with pytest.raises(Rejected) as caught:
            read_picture_file(root, "a.jpg", MAX_BYTES, roots)
        assert caught.value.reason is Reason.PATH_ESCAPES_ROOT


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_picture_that_may_not_be_read_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"picture")
    (tmp_path / "a.jpg").chmod(0)
    with pytest.raises(Rejected) as caught:
        read_picture_file(str(tmp_path), "a.jpg", MAX_BYTES)
    assert caught.value.reason is Reason.UNREADABLE


def test_a_picture_that_nobody_may_read_is_a_reject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, where tests run as root."""
    (tmp_path / "a.jpg").write_bytes(b"picture")

    def refuse(path: object, *_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Rejected, match=r"a\.jpg: PermissionError: Permission denied") as caught:
        read_picture_file(str(tmp_path), "a.jpg", MAX_BYTES)
    assert caught.value.reason is Reason.UNREADABLE


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


def test_a_bucket_is_read_as_a_folder(tmp_path: Path, bucket: fs.S3FileSystem) -> None:
    root = tmp_path / "root"
    for name in ("b.jpg", "sub/c.png", "a.jpg", "large.jpg"):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes(name.encode() * (1 + MAX_BYTES * (name == "large.jpg")))
    place = upload(root, bucket, "pictures")
    for reference in ("a.jpg", "sub/c.png", "sub/c.jpg"):
        assert read_picture_file(place, reference, MAX_BYTES) == read_picture_file(
            str(root), reference, MAX_BYTES
        )
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


@pytest.mark.parametrize("name", ["a.2", "a.txt", "a.mp4", "a.jpg?x=1", "a.jpg "])
def test_only_a_picture_extension_stands_for_another(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.jpg").write_bytes(b"picture")
    with pytest.raises(Rejected) as caught:
        read_picture_file(str(tmp_path), name, MAX_BYTES)
    assert caught.value.reason is Reason.IMAGE_MISSING
