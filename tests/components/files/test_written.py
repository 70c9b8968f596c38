from pathlib import Path

import pytest

from components.files.written import (
    LIST,
    OutputError,
    Written,
    check_folder,
    files_in,
    name_some,
    read_list,
    remove_written,
    write_list,
)


def test_a_list_is_read_as_it_was_written_and_only_known_patterns_are_believed(
    tmp_path: Path,
) -> None:
    write_list(tmp_path, Written("job", {"a": 1}, ("*.tsv", "*")))
    assert read_list(tmp_path) == Written("job", {"a": 1})
    assert read_list(tmp_path, ["*.tsv"]) == Written("job", {"a": 1}, ("*.tsv",))
    (tmp_path / LIST).write_text('{"files": {}, "growing": [], "written_by": "else job"}')
    assert read_list(tmp_path) is None


def test_links_to_folders_and_empty_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_text("four")
    (tmp_path / "link").symlink_to("deep")
    assert files_in(tmp_path) == {"deep/file": 4, "empty/": 0, "link": -1}


def test_only_what_is_listed_with_its_size_is_removed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("deep/ours", "changed", "theirs"):
        (tmp_path / name).write_text("1")
    write_list(tmp_path, Written("job", {"deep/ours": 1, "changed": 2}))
    with pytest.raises(OutputError, match="holds changed, theirs, which job did not write"):
        check_folder(tmp_path, "job")
    remove_written(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed", "theirs"]


def test_a_few_names_stand_for_many() -> None:
    assert name_some(["d", "a", "b\x1b", "c"]) == "a, 'b\\x1b', c and 1 more"
