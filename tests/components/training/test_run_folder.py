import os
from pathlib import Path

import pytest

from components.training.run_folder import (
    discard,
    fingerprint,
    only_run_in,
    open_run,
    read_history,
    write_history,
)
from components.training.state import HistoryRow


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    state, refused = tmp_path / "state", pytest.raises(RuntimeError, match="another run is at work")
    with only_run_in(state), refused, only_run_in(state):
        pass
    with only_run_in(state):
        pass


def test_fingerprint_changes_with_settings_and_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "part"
    file.write_text("one")
    (tmp_path / "code.py").write_text("pass")
    inputs = [tmp_path / "data", tmp_path / "code.py"]
    names = [fingerprint(["a", "b"], inputs), fingerprint(["ab", ""], inputs)]
    os.utime(file, (1, 1))
    names.append(fingerprint(["a", "b"], inputs))
    file.write_text("three")
    os.utime(file, (1, 1))
    names.append(fingerprint(["a", "b"], inputs))
    os.utime(tmp_path / "code.py", (1, 1))
    names.append(fingerprint(["a", "b"], inputs))
    assert len(set(names)) == 5
    assert fingerprint(["a", "b"], inputs) == names[-1]


def test_a_run_keeps_its_files_and_removes_those_of_others(tmp_path: Path) -> None:
    (open_run(tmp_path, "first") / "checkpoint").write_text("1")
    assert (open_run(tmp_path, "first") / "checkpoint").exists()
    open_run(tmp_path, "second")
    assert [path.name for path in tmp_path.iterdir()] == ["second"]


def test_a_discarded_run_is_gone_whatever_a_kill_left_of_another(tmp_path: Path) -> None:
    for name in ("run", "trash"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint").write_text(name)
    discard(tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_history_comes_back(tmp_path: Path) -> None:
    rows = [HistoryRow(step=step, metrics={"loss": step / 3}, timings={}) for step in (1, 2)]
    assert read_history(tmp_path / "history.jsonl") == []
    write_history(rows, tmp_path / "history.jsonl")
    assert read_history(tmp_path / "history.jsonl") == rows
