import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.files.outputs import (
    check_apart,
    growing_folder,
    json_of,
    json_with,
    new_file,
    new_folder,
)
from components.files.written import LIST, OutputError, read_list


def write(output: Path, **files: str) -> None:
    with new_folder("job", output) as aside:
        for name, text in files.items():
            path = aside / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def tree(folder: Path) -> dict[str, str]:
    """What is in a folder, but for our list."""
    found = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.name != LIST
    }
    return {name: path.read_text() if path.is_file() else "" for name, path in found.items()}


def any_file(_: Path) -> bool:
    return True


def json_with_a(folder: Path) -> bool:
    return json_with("a")(folder / "m.json")


def no_file(_: Path) -> bool:
    return False


def test_a_folder_is_new_empty_or_what_the_job_wrote_before(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out"
    write(output, a="1", b__c="2")
    assert tree(output) == {"a": "1", "b": "", "b/c": "2"}
    write(output, d="3")
    assert tree(output) == {"d": "3"}
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", a="1")
    # neither lock nor work is left
    assert sorted(path.name for path in output.parent.iterdir()) == ["out"]


def test_the_list_is_the_same_for_the_same_files(tmp_path: Path) -> None:
    write(tmp_path / "one", a="1", b__c="2")
    write(tmp_path / "two", b__c="2", a="1")
    assert (tmp_path / "one" / LIST).read_bytes() == (tmp_path / "two" / LIST).read_bytes()


@pytest.mark.parametrize(
    "foreign",
    [
        lambda out: (out / "thesis.txt").write_text("mine"),
        lambda out: (out / "b" / "thesis.txt").write_text("mine"),
        lambda out: (out / ".hidden").write_text("mine"),
        lambda out: (out / "thesis.partial").write_text("mine"),
        lambda out: (out / "mine").mkdir(),
        lambda out: (out / "link").symlink_to(out.parent),
        lambda out: (out / "gone").symlink_to("nowhere"),
        lambda out: (out / "a").write_text("edited"),
        lambda out: os.mkfifo(out / "pipe"),
    ],
)
def test_what_others_put_into_a_folder_stops_the_job_and_stays(
    tmp_path: Path, foreign: Callable[[Path], object]
) -> None:
    output = tmp_path / "out"
    write(output, a="1", b__c="2")
    foreign(output)
    before = sorted(path.as_posix() for path in output.rglob("*"))
    with pytest.raises(OutputError, match="which job did not write or which has changed since"):
        write(output, a="3")
    assert sorted(path.as_posix() for path in output.rglob("*")) == before


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(
        OutputError, match=r"out: holds thesis\.txt, and no _fwd2bot\.json says that job wrote that"
    ):
        write(tmp_path / "out")
    for text in (
        "{",
        "[]",
        "{}",
        '{"files": 1, "growing": [], "written_by": "fwd2bot job"}',
        "[" * 100_000,
    ):
        (tmp_path / "out" / LIST).write_text(text)
        with pytest.raises(OutputError, match=r"thesis\.txt"):
            write(tmp_path / "out")
    assert tree(tmp_path / "out") == {"thesis.txt": "mine"}


def test_a_job_does_not_replace_what_another_job_wrote(tmp_path: Path) -> None:
    write(tmp_path / "out", a="1")
    with (
        pytest.raises(OutputError, match="holds what job wrote"),
        new_folder("other", tmp_path / "out"),
    ):
        pass
    assert tree(tmp_path / "out") == {"a": "1"}


def test_a_partial_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"out\.partial: is in the way"):
        write(tmp_path / "out")
    assert tree(tmp_path) == {"out.partial": "", "out.partial/thesis.txt": "mine"}
    (tmp_path / "file.partial").write_text("mine")
    with pytest.raises(OutputError, match=r"file\.partial: is in the way"):
        write(tmp_path / "file")


def test_an_error_keeps_the_old_output_and_what_was_written(tmp_path: Path) -> None:
    output = tmp_path / "out"
    write(output, a="1")
    with pytest.raises(OSError):  # noqa: PT011
        write(output, b="half", **{"a" * 300: "cannot be written"})
    assert tree(output) == {"a": "1"}
    assert tree(tmp_path / "out.partial") == {"b": "half"}
    # the next run begins anew, and leaves nothing of nothing
    with pytest.raises(OSError):  # noqa: PT011
        write(output, **{"a" * 300: "cannot be written"})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_comes_into_the_folder_meanwhile_stays(tmp_path: Path) -> None:
    output = tmp_path / "out"
    write(output, a="1")

    def run() -> None:
        with new_folder("job", output) as aside:
            (aside / "b").write_text("2")
            (output / "thesis.txt").write_text("mine")

    with pytest.raises(OutputError, match=r"thesis\.txt.*has written is in .*out\.partial"):
        run()
    assert tree(output) == {"a": "1", "thesis.txt": "mine"}
    assert tree(tmp_path / "out.partial") == {"b": "2"}


def test_links_as_dvc_makes_them_are_ours_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    output = tmp_path / "out"
    write(output, a="1")
    (output / "a").rename(tmp_path / "cached")
    (output / "a").symlink_to(tmp_path / "cached")
    write(output, a="2")
    assert (tmp_path / "cached").read_text() == "1"
    assert tree(output) == {"a": "2"}


def test_a_link_to_a_folder_is_followed_and_one_to_nowhere_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    write(tmp_path / "link", a="1")
    assert tree(tmp_path / "disk") == {"a": "1"}
    (tmp_path / "broken").symlink_to("nowhere")
    with pytest.raises(OutputError, match="broken: is a link to nowhere, which does not exist"):
        write(tmp_path / "broken")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="loop: is a link"):
        write(tmp_path / "loop")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="file: is a file"):
        write(tmp_path / "file")


@pytest.mark.parametrize(
    ("output", "wanted"),
    [
        ("raw", "is also"),
        ("raw/", "is also"),
        ("other/../raw", "is also"),
        ("link", "is also"),
        ("raw/curated", "lies in"),
        ("raw/new/deep", "lies in"),
        ("link/curated", "lies in"),
        (".", "holds"),
        ("raw-curated", None),
        ("curated", None),
    ],
)
def test_an_output_and_an_input_do_not_lie_in_each_other(
    tmp_path: Path, output: str, wanted: str | None
) -> None:
    for name in ("raw", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("raw")
    if wanted is None:
        return check_apart(tmp_path / output, [tmp_path / "raw", "s3://bucket/raw"])
    with pytest.raises(OutputError, match=f"{wanted} .*raw, which this run needs"):
        check_apart(tmp_path / output, [tmp_path / "raw"])


def test_a_file_by_another_name_is_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "queries").write_text("mine")
    (tmp_path / "hard").hardlink_to(tmp_path / "queries")
    (tmp_path / "soft").symlink_to("queries")
    for name in ("queries", "hard", "soft"):
        with (
            pytest.raises(OutputError, match="is also"),
            new_file(tmp_path / name, any_file, [tmp_path / "queries"]),
        ):
            pass
    assert (tmp_path / "queries").read_text() == "mine"


def test_a_file_is_replaced_only_when_it_is_ours_or_empty(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    for text in ("1", "2"):
        with new_file(path, any_file) as aside:
            aside.write_text(text)
    assert tree(tmp_path) == {"deep": "", "deep/file": "2"}
    with (
        pytest.raises(OutputError, match="exists, and is no earlier result"),
        new_file(path, no_file),
    ):
        pass
    path.write_text("")
    with new_file(path, no_file) as aside:
        aside.write_text("3")
    with pytest.raises(OutputError, match="is no file"), new_file(tmp_path / "deep", any_file):
        pass
    assert tree(tmp_path) == {"deep": "", "deep/file": "3"}


def test_a_link_is_replaced_and_its_file_stays(tmp_path: Path) -> None:
    (tmp_path / "cached").write_text("1")
    (tmp_path / "file").symlink_to("cached")
    with new_file(tmp_path / "file", any_file) as aside:
        aside.write_text("2")
    assert tree(tmp_path) == {"cached": "1", "file": "2"}
    (tmp_path / "broken").symlink_to("nowhere")
    with (
        pytest.raises(OutputError, match="does not exist"),
        new_file(tmp_path / "broken", any_file),
    ):
        pass


def test_an_error_leaves_a_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")

    def run() -> None:
        with new_file(tmp_path / "file", any_file) as aside:
            aside.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        run()
    assert tree(tmp_path) == {"file": "1"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"a": 1, "b": 2}', True),
        ('{"a": 1}', False),
        ("[]", False),
        ("x", False),
        ("[" * 99_999, False),
    ],
)
def test_scores_are_told_from_other_files_by_their_keys(
    tmp_path: Path, text: str, wanted: bool
) -> None:
    (tmp_path / "file").write_text(text)
    assert json_with("a", "b")(tmp_path / "file") is wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [('{"a": 1}', True), ("{}", True), ('{"a": 1, "c": 2}', False), ("[]", False), ("{", False)],
)
def test_a_file_of_some_keys_has_no_others(tmp_path: Path, text: str, wanted: bool) -> None:
    (tmp_path / "file").write_text(text)
    assert json_of({"a", "b"})(tmp_path / "file") is wanted


def test_a_growing_folder_is_ours_also_after_a_kill(tmp_path: Path) -> None:
    output = tmp_path / "out"

    def grow(name: str) -> None:
        with growing_folder("job", output, ("m.json", "plots/*"), is_older=json_with_a):
            (output / "plots/deep").mkdir(parents=True)
            (output / name).write_text("1")
            (output / "plots/deep/loss.tsv").write_text("1")

    grow("m.json")
    written = (output / LIST).read_text()
    (output / LIST).write_text(
        '{"files": {}, "growing": ["m.json", "plots/*"], "written_by": "fwd2bot job"}'
    )
    grow("m.json")
    assert (output / LIST).read_text() == written
    (output / "plots/mine.tsv").write_text("mine")
    with pytest.raises(OutputError, match=r"holds plots/mine\.tsv"):
        grow("m.json")
    (output / "plots/mine.tsv").unlink()
    grow("thesis.txt")  # it is not of the job, though it came while the job was at work
    with pytest.raises(OutputError, match=r"holds thesis\.txt"):
        grow("m.json")


def test_a_growing_folder_of_an_older_version_is_ours_if_it_is_told_by_what_it_holds(
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"

    def grow() -> None:
        with growing_folder("job", output, ("m.json",), is_older=json_with_a):
            (output / "m.json").write_text("{}")

    output.mkdir()
    (output / "m.json").write_text('{"b": 1}')
    with pytest.raises(OutputError, match=r"holds m\.json"):
        grow()
    (output / "m.json").write_text('{"a": 1}')
    (output / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds thesis\.txt"):
        grow()
    (output / "thesis.txt").unlink()
    grow()
    assert (output / "m.json").read_text() == "{}"


NAMES = st.sampled_from(["a", "b", "c", "d/a", "d/b", "d/e/a", "_fwd2bot.json.txt", "é", "a b"])
FILES = st.dictionaries(NAMES, st.text("xyz", max_size=3), max_size=6)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(first=FILES, theirs=FILES, second=FILES)
def test_whatever_is_written_no_file_of_others_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
    first: dict[str, str],
    theirs: dict[str, str],
    second: dict[str, str],
) -> None:
    output = tmp_path_factory.mktemp("drawn") / "out"
    keys = {name: name.replace("/", "__") for name in {*first, *second}}
    write(output, **{keys[name]: text for name, text in first.items()})
    for name, text in theirs.items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(text)
    before = tree(output)
    is_foreign = any(
        len(first.get(name, "none of this length")) != len(text) for name, text in theirs.items()
    )
    if is_foreign:
        with pytest.raises(OutputError):
            write(output, **{keys[name]: text for name, text in second.items()})
        assert tree(output) == before
    else:
        write(output, **{keys[name]: text for name, text in second.items()})
        assert {
            name: text for name, text in tree(output).items() if (output / name).is_file()
        } == second
    assert read_list(output) is not None


def test_an_output_is_not_where_another_is_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="choose another name"):
        write(tmp_path / "a.partial", table="1")


def test_a_finished_folder_aside_keeps_what_came_to_it(tmp_path: Path) -> None:
    write(tmp_path / "a", table="1")
    (tmp_path / "a").rename(tmp_path / "a.partial")
    (tmp_path / "a.partial/notes.txt").write_text("mine")

    with pytest.raises(OutputError, match=r"notes\.txt"):
        write(tmp_path / "a", table="2")
    assert (tmp_path / "a.partial/notes.txt").read_text() == "mine"


def test_a_list_that_cannot_be_read_stops_the_job_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / LIST).write_text('{"files":')

    with pytest.raises(OutputError, match="cannot be read"):
        write(tmp_path / "a", table="1")
    assert not (tmp_path / "a.partial").exists()


@pytest.mark.parametrize("name", [f".{LIST}.partial", None])
def test_a_kill_while_the_list_is_written_is_gone_on_from(tmp_path: Path, name: str | None) -> None:
    aside = tmp_path / "a.partial"
    aside.mkdir()
    if name:
        (aside / name).write_text('{"files":')

    write(tmp_path / "a", table="1")
    assert tree(tmp_path / "a") == {"table": "1"}


def test_a_full_disk_leaves_the_list_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(path: Path, text: str, encoding: str) -> None:
        with path.open("w", encoding=encoding) as stream:
            stream.write(text[:5])
        raise OSError(28, "No space left on device")

    writing = new_folder("job", tmp_path / "a")
    (writing.__enter__() / "table").write_text("1")
    monkeypatch.setattr(Path, "write_text", cut)
    with pytest.raises(OSError, match="No space"):
        writing.__exit__(None, None, None)
    monkeypatch.undo()

    write(tmp_path / "a", table="2")
    assert tree(tmp_path / "a") == {"table": "2"}


def test_a_mount_point_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disk")
    (tmp_path / "disk").mkdir()

    with pytest.raises(OutputError, match="mount point"):
        write(tmp_path / "disk", table="1")
    assert os.listdir(tmp_path) == ["disk"]


def test_a_file_of_others_with_the_name_of_a_lock_stays(tmp_path: Path) -> None:
    lock = tmp_path / ".a.fwd2bot.lock"
    lock.write_text("mine")
    write(tmp_path / "a", table="1")
    assert lock.read_text() == "mine"


def test_patterns_in_an_edited_list_remove_nothing(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with new_folder("job", output) as folder:
        (folder / "a").write_text("a")
    edited = json.loads((output / LIST).read_text()) | {"growing": ["*"]}
    (output / LIST).write_text(json.dumps(edited))
    (output / "thesis.txt").write_text("mine")
    for _ in range(2):
        with pytest.raises(OutputError, match=r"thesis\.txt"), new_folder("job", output):
            pass
        with (
            pytest.raises(OutputError, match=r"thesis\.txt"),
            growing_folder("job", output, ("plots/*",)),
        ):
            pass
    assert (output / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("new_is_there", [False, True])
def test_a_kill_between_the_earlier_output_and_the_new_one_leaves_a_whole_one(
    tmp_path: Path, new_is_there: bool
) -> None:
    output, old = tmp_path / "output", tmp_path / ".output.fwd2bot.old"
    with new_folder("job", output) as folder:
        (folder / "a").write_text("old")
    output.rename(old)
    if new_is_there:
        with new_folder("job", tmp_path / "new") as folder:
            (folder / "a").write_text("new")
        (tmp_path / "new").rename(output)
    with pytest.raises(RuntimeError), new_folder("job", output):
        raise RuntimeError("fails at once")
    assert (output / "a").read_text() == ("new" if new_is_there else "old")
    assert not old.exists()
    with new_folder("job", output) as folder:
        (folder / "b").write_text("newest")
    assert sorted(path.name for path in output.iterdir()) == [LIST, "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output"]
