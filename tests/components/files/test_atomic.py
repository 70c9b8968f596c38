import hashlib
from pathlib import Path

import pytest

from components.files.atomic import put_in_place, sha256_of, write_whole


@pytest.mark.parametrize("aside", [None, "other/name"])
def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path, aside: str | None) -> None:
    (tmp_path / "other").mkdir()
    path = tmp_path / "file"
    for text in ("old", "new"):
        write_whole(
            path, lambda place, text=text: place.write_text(text), aside and tmp_path / aside
        )
        assert path.read_text() == text
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write(place: Path) -> None:
        place.write_text("ha")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_whole(path, write)
    assert path.read_text() == "old"


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "partial").write_bytes(data)
    put_in_place(tmp_path / "partial", tmp_path / "file")
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()
    assert not (tmp_path / "partial").exists()
