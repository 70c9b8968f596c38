import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.files.row_watch import MAX_ATTEMPTS, RowWatch

DIES_AT_TWO = """
import os, sys
from pathlib import Path
from components.files.row_watch import RowWatch
with RowWatch(Path(sys.argv[1])) as watch:
    for number in range(4):
        if watch.begin(number) and number == 2:
            os.abort()
        watch.end()
        print(number)
"""


def attempt(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DIES_AT_TWO, str(path)], capture_output=True, text=True
    )


def test_a_row_at_which_three_processes_died_is_not_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "running" / "task"
    for _ in range(3):
        assert attempt(path).returncode < 0
    assert path.exists()
    last = attempt(path)
    assert (last.returncode, last.stdout.split()) == (0, ["0", "1", "2", "3"])
    assert not path.exists()


def test_a_process_that_dies_between_rows_blames_none(tmp_path: Path) -> None:
    for _ in range(3):
        watch = RowWatch(tmp_path / "task")
        watch.__enter__()
        assert watch.begin(0)
        watch.end()
        os.close(watch.file)  # as when the process ends
    with RowWatch(tmp_path / "task") as watch:
        assert watch.begin(0)


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk"), RowWatch(tmp_path / "task"):
        raise OSError("the disk is full")
    assert list(tmp_path.iterdir()) == []


def test_another_attempt_at_the_same_time_does_not_disturb(tmp_path: Path) -> None:
    with RowWatch(tmp_path / "task"), RowWatch(tmp_path / "task"):
        pass


def test_a_piece_that_ends_every_process_between_its_rows_is_an_error(tmp_path: Path) -> None:
    for _ in range(MAX_ATTEMPTS):
        watch = RowWatch(tmp_path / "task-000007")
        watch.__enter__()
        os.close(watch.file)
    with pytest.raises(
        RuntimeError,
        match=r"task-000007: 50 processes ended while they worked on it; is memory short\?",
    ):
        RowWatch(tmp_path / "task-000007")
