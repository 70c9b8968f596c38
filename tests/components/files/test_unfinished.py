"""Unfinished work stays until it is finished, or named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.files.locks import BusyError
from components.files.unfinished import (
    MARKER,
    TRASH,
    describe,
    discard,
    find_works,
    hold,
    leave,
    open_work,
    works_in,
)


def test_work_of_other_runs_stays_and_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = open_work(tmp_path, "first")
    (first / "step-00000020").mkdir()
    (first / "step-00000100").mkdir()
    (first / "step-00000100/weights").write_bytes(bytes(1_500_000))
    assert capsys.readouterr().err == ""
    assert open_work(tmp_path, "first") == first
    assert capsys.readouterr().err == ""
    open_work(tmp_path, "second")
    said = capsys.readouterr().err
    assert "unfinished work of other runs is kept" in said
    assert f"{first}: step 100, 1.5 MB, changed 0 seconds ago" in said
    assert "python -m flows.runs discard" in said
    assert (first / "step-00000100/weights").exists()
    assert [work.folder.name for work in works_in(tmp_path)] == ["first", "second"]


def test_what_is_no_work_of_ours_is_neither_listed_nor_touched(tmp_path: Path) -> None:
    (tmp_path / "place/trash").mkdir(parents=True)
    (tmp_path / "place/trash/thesis.txt").write_text("mine")
    (tmp_path / "place/lock").write_text("mine, too")
    with hold(tmp_path / "place"):
        discard(open_work(tmp_path / "place", "run"))
        leave(tmp_path / "place")
    assert list(find_works(tmp_path)) == []
    assert (tmp_path / "place/trash/thesis.txt").read_text() == "mine"
    assert (tmp_path / "place/lock").read_text() == "mine, too"


def test_a_place_goes_with_its_last_work(tmp_path: Path) -> None:
    place = tmp_path / "out.partial"
    with hold(place):
        works = [open_work(place, name) for name in ("one", "two")]
        discard(works[0])
        leave(place)
        assert works[1].exists()
        discard(works[1])
        leave(place)
    assert not place.exists()


def test_a_lock_that_was_removed_meanwhile_does_not_count(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with hold(place):
        leave(place)
        with hold(place), pytest.raises(BusyError, match="another run is at work"), hold(place):
            pass


def test_a_discarded_run_is_gone_whatever_a_kill_left_of_another(tmp_path: Path) -> None:
    open_work(tmp_path, "run")
    (tmp_path / f".run.{TRASH}").mkdir()
    (tmp_path / f".run.{TRASH}/half").write_text("half")
    discard(tmp_path / "run")
    assert not list(tmp_path.iterdir())
    (tmp_path / f".other.{TRASH}").mkdir()
    open_work(tmp_path, "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("files", "progress"),
    [
        ((), "nothing finished"),
        (
            ("done/part-00000.parquet.json", "done/part-00001.parquet.json", "shards/x"),
            "2 files done",
        ),
        (("facts/task-000000.parquet",), "1 pieces checked"),
        (("step-00000007/x", "step-00000012/x"), "step 12"),
    ],
)
def test_progress_is_what_the_folder_shows(
    tmp_path: Path, files: tuple[str, ...], progress: str
) -> None:
    folder = open_work(tmp_path, "run")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (work,) = works_in(tmp_path)
    assert work.progress == progress
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (work.changed - 3 * 86400, work.changed - 3 * 86400))
    assert "changed 3 days ago" in describe(works_in(tmp_path)[0])


def runs(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.runs", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_command_lists_everything_and_removes_what_is_named(tmp_path: Path) -> None:
    places = (
        ".cache/train",
        "data/curated.staging",
        "data/compressed/test.partial",
        ".dvc/tmp/sweep/.cache/train",
    )
    for place in places:
        open_work(tmp_path / place, "0123456789abcdef")
        open_work(tmp_path / place, "fedcba9876543210")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / MARKER).write_text("chapter 3 is missing")
    said = runs(tmp_path, "list").stdout
    assert all(f"{place}/0123456789abcdef: nothing finished" in said for place in places)
    assert "runs: 8 unfinished" in said

    wrong = runs(tmp_path, "discard", ".cache/train/0123456789abcdef", "thesis")
    assert wrong.returncode == 1
    assert wrong.stderr == (
        "runs: thesis: is no folder of unfinished work; `list` prints those; nothing was removed\n"
    )
    assert "8 unfinished" in runs(tmp_path, "list").stdout

    with hold(tmp_path / places[0]):
        busy = runs(tmp_path, "discard", ".cache/train/0123456789abcdef")
    assert "another run is at work" in busy.stderr
    both = [f"{places[1]}/{name}" for name in ("0123456789abcdef", "fedcba9876543210")]
    done = runs(tmp_path, "discard", ".cache/train/0123456789abcdef", *both)
    assert done.returncode == 0, done.stderr
    assert "5 unfinished" in runs(tmp_path, "list").stdout
    assert (tmp_path / ".cache/train/fedcba9876543210" / MARKER).exists()
    assert not (tmp_path / "data/curated.staging").exists()
