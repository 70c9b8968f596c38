"""What links lead to: regular files below their root or below an allowed one, each folder once."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.files.links import OutsideRootsError, real_place, walk
from components.files.listing import list_files


def file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def link(path: Path, target: Path | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def found(root: Path, *allowed_roots: Path) -> dict[str, str | None]:
    """{name: obstacle, None for files} of everything below a root."""
    walked = list(
        walk(
            str(root), [str(path) for path in allowed_roots], leave_out=lambda name: name == ".git"
        )
    )
    names = [entry.name for entry in walked]
    assert len(set(names)) == len(names)
    return {entry.name: entry.obstacle for entry in walked}


def test_a_link_may_lead_into_an_allowed_root_however_it_gets_there(tmp_path: Path) -> None:
    root, cache = tmp_path / "root", tmp_path / "cache"
    target = file(cache / "ab/cdef")
    link(root / "absolute.jpg", target)
    link(root / "sub/relative.jpg", "../../cache/ab/cdef")
    link(root / "chain.jpg", "sub/relative.jpg")
    link(tmp_path / "linked-cache", cache)
    link(tmp_path / "linked-root", root)
    for name in ("absolute.jpg", "sub/relative.jpg", "chain.jpg"):
        assert real_place(str(root), name, [str(cache)]) == str(target)
        assert real_place(
            str(tmp_path / "linked-root"), name, [str(tmp_path / "linked-cache")]
        ) == str(target)
        with pytest.raises(OutsideRootsError):
            real_place(str(root), name, [])
        with pytest.raises(OutsideRootsError):
            real_place(str(root), name, [str(tmp_path / "cach")])  # no prefix of a name is a root


def test_a_name_that_climbs_or_is_absolute_is_not_helped_by_allowed_roots(tmp_path: Path) -> None:
    root, cache = tmp_path / "root", tmp_path / "cache"
    file(root / "a.jpg")
    file(cache / "secret")
    link(root / "in", cache)
    assert real_place(str(root), "in/secret", [str(cache)]) == str(cache / "secret")
    assert real_place(str(root), "../root/a.jpg", []) == str(root / "a.jpg")
    for name in ("../cache/secret", "in/../cache/secret", str(cache / "secret")):
        with pytest.raises(OutsideRootsError):
            real_place(str(root), name, [str(cache)])


def test_links_in_circles_and_to_nowhere_are_errors_of_the_file(tmp_path: Path) -> None:
    link(tmp_path / "a", "b")
    link(tmp_path / "b", "a")
    link(tmp_path / "nowhere", "c")
    with pytest.raises(OSError, match="symbolic links"):
        real_place(str(tmp_path), "a", [])
    with pytest.raises(FileNotFoundError):
        real_place(str(tmp_path), "nowhere", [])


def test_linked_folders_are_entered_once_and_only_where_they_may_lead(tmp_path: Path) -> None:
    root, more, secret = tmp_path / "root", tmp_path / "more", tmp_path / "secret"
    for path in (
        root / "z/a.jpg",
        root / ".git/b.jpg",
        more / "x/c.jpg",
        more / "d.jpg",
        secret / "e.jpg",
    ):
        file(path)
    link(root / "circle", ".")
    link(root / "above", "..")
    link(root / "a-copy-of-z", "z")
    link(root / "linked", more)
    link(root / "linked-again", more / "x")
    link(more / "back", root)
    link(more / "out", secret)
    link(root / "secret", secret)
    link(root / "pictures.jpg", "pictures.jpg")
    assert found(root, more) == {
        "z/a.jpg": None,
        "linked/d.jpg": None,
        "linked/x/c.jpg": None,
        "pictures.jpg": None,
        ".git": "left_out",
        "circle": "read_before",
        "a-copy-of-z": "read_before",
        "linked-again": "read_before",
        "linked/back": "read_before",
        "above": "outside",
        "secret": "outside",
        "linked/out": "outside",
    }
    names = [state.name for state in list_files(str(root), [str(more)])]
    assert {"secret", "above", "linked/d.jpg"} <= set(names)  # refused by who reads them, not lost


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    targets=st.lists(
        st.sampled_from(["a", "b", "a/c", "link-0", "link-1", ".", "..", "../more"]), max_size=5
    )
)
def test_no_file_is_lost_or_found_twice_whatever_links_there_are(
    tmp_path_factory: pytest.TempPathFactory, targets: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("links")
    root = folder / "root"
    for name in ("root/a/1.jpg", "root/a/c/2.jpg", "root/b/3.jpg", "more/4.jpg"):
        file(folder / name)
    for number, target in enumerate(targets):
        link(root / f"link-{number}", target)
    entries = found(root, folder / "more")
    files = [
        os.path.realpath(root / name) for name, obstacle in entries.items() if obstacle is None
    ]
    real = [path for path in files if os.path.isfile(path)]
    assert len(real) == len(set(real)) == 3 + any(target == "../more" for target in targets)
    # Every link is accounted for: entered, refused by name, or a file that cannot be opened.
    for number in range(len(targets)):
        assert any(
            name == f"link-{number}" or name.startswith(f"link-{number}/") for name in entries
        )
