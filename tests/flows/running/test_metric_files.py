"""DVCLive files follow the history of a run, also when it goes back to a checkpoint."""

import filecmp
from pathlib import Path

import pytest

from components.training.diagnostics import RunSettings
from components.training.state import HistoryRow
from flows.running.metric_files import MetricFiles

RUN = RunSettings(
    num_steps=5, contrastive_batch_size=32, contrastive_weight=1.0, max_logit_scale=100.0
)


def history(steps: range, loss: float) -> list[HistoryRow]:
    return [
        HistoryRow(step=n, metrics={"train/loss": loss / n}, timings={"seconds_per_step": 1.0})
        for n in steps
    ]


def test_metric_files_follow_a_history_that_went_back(tmp_path: Path) -> None:
    rows = history(range(1, 6), 3.0)
    straight = MetricFiles(tmp_path / "straight", tmp_path / "timings-1", RUN)
    straight.follow(rows)
    straight.end()
    disturbed = MetricFiles(tmp_path / "disturbed", tmp_path / "timings-2", RUN)
    for known in (rows[:2], rows[:4] + history(range(5, 6), 7.0), rows[:2], rows):
        disturbed.follow(known)
    disturbed.end()
    files = sorted(
        path.relative_to(tmp_path / "straight") for path in (tmp_path / "straight").rglob("*.*")
    )
    assert (
        filecmp.cmpfiles(tmp_path / "straight", tmp_path / "disturbed", files, shallow=False)[0]
        == files
    )


def test_a_sign_of_trouble_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = MetricFiles(tmp_path / "metrics", tmp_path / "timings", RUN)
    rows = [
        HistoryRow(step=n, metrics={"train/skipped_steps": 1.0}, timings={}) for n in range(1, 4)
    ]
    for known in (rows[:1], rows[:2], rows[:1], rows):
        files.follow(known)
    assert capsys.readouterr().out.count("train: warning: 1 steps had no finite gradient") == 1
