"""A name by contents: times, places and the memory of hashes leave it alone."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.files import contents
from components.files.contents import contents_sha256, files


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, text in {"a.txt": "a", "part/b.txt": "b", "part/deep/c.txt": "c"}.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(text)
    return tmp_path / "data"


def settle(folder: Path) -> None:
    """Times long ago, as far as a user can set them."""
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))


def test_touch_copy_and_hidden_files_change_nothing(data: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    name = contents_sha256([data], memory)
    settle(data)
    (data / ".DS_Store").write_text("x")
    (data / "part/.hidden").mkdir()
    (data / "part/.hidden/d.txt").write_text("d")
    shutil.copytree(data, tmp_path / "copy")
    shutil.move(data, tmp_path / "moved")
    assert {contents_sha256([tmp_path / place], memory) for place in ("copy", "moved")} == {name}
    memory.write_text("{[damaged")
    assert contents_sha256([tmp_path / "copy"], memory) == name


def test_every_change_of_names_and_contents_counts(data: Path, tmp_path: Path) -> None:
    found = [contents_sha256([data], tmp_path / "memory")]
    state = (data / "a.txt").stat()
    (data / "a.txt").write_text("A")  # the same size, and its old times
    os.utime(data / "a.txt", ns=(state.st_atime_ns, state.st_mtime_ns))
    found.append(contents_sha256([data], tmp_path / "memory"))
    (data / "part/b.txt").rename(data / "part/e.txt")
    found.append(contents_sha256([data], tmp_path / "memory"))
    (data / "part/deep/c.txt").unlink()
    found.append(contents_sha256([data], tmp_path / "memory"))
    found.append(contents_sha256([data, data / "a.txt"], tmp_path / "memory"))
    assert len(set(found)) == len(found)


def test_a_file_that_has_not_changed_for_a_while_is_read_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "SETTLED_NS", -1)  # these files are new
    name = contents_sha256([data], tmp_path / "memory")
    read: list[Path] = []
    known = contents.sha256_of
    monkeypatch.setattr(contents, "sha256_of", lambda path: (read.append(path), known(path))[1])
    assert contents_sha256([data], tmp_path / "memory") == name
    assert read == []
    (data / "a.txt").touch()
    assert contents_sha256([data], tmp_path / "memory") == name
    assert read == [data / "a.txt"]


def test_links_to_folders_are_followed_and_loops_end(data: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(data / "part", elsewhere)
    (data / "part").symlink_to(elsewhere)
    (elsewhere / "up").symlink_to(data)
    assert [path.name for path in files(data)] == ["a.txt", "b.txt", "c.txt"]
    first = contents_sha256([data], tmp_path / "memory")
    (elsewhere / "deep/c.txt").write_text("changed")
    assert contents_sha256([data], tmp_path / "memory") != first


@settings(max_examples=30)
@given(
    left=st.dictionaries(st.sampled_from("abc"), st.binary(max_size=3)),
    right=st.dictionaries(st.sampled_from("abc"), st.binary(max_size=3)),
)
def test_two_folders_have_one_name_only_if_they_hold_the_same(
    tmp_path_factory: pytest.TempPathFactory, left: dict[str, bytes], right: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("drawn")
    for side, held in (("left", left), ("right", right)):
        (folder / side).mkdir()
        for name, data in held.items():
            (folder / side / name).write_bytes(data)
    names = [contents_sha256([folder / side], folder / "memory") for side in ("left", "right")]
    assert (names[0] == names[1]) == (left == right)
