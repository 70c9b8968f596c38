"""DVCLive files follow the history of a run, also when it goes back to a checkpoint."""

import filecmp
from pathlib import Path

from components.training.state import HistoryRow
from flows.metric_files import MetricFiles


def history(steps: range, loss: float) -> list[HistoryRow]:
    return [HistoryRow(step=n, metrics={"train/loss": loss / n}, timings={"seconds_per_step": 1.0}) for n in steps]


def test_metric_files_follow_a_history_that_went_back(tmp_path: Path) -> None:
    rows = history(range(1, 6), 3.0)
    straight = MetricFiles(tmp_path / "straight", tmp_path / "timings-1", 5)
    straight.follow(rows)
    straight.end()
    disturbed = MetricFiles(tmp_path / "disturbed", tmp_path / "timings-2", 5)
    for known in (rows[:2], rows[:4] + history(range(5, 6), 7.0), rows[:2], rows):
        disturbed.follow(known)
    disturbed.end()
    files = sorted(path.relative_to(tmp_path / "straight") for path in (tmp_path / "straight").rglob("*.*"))
    assert filecmp.cmpfiles(tmp_path / "straight", tmp_path / "disturbed", files, shallow=False)[0] == files
