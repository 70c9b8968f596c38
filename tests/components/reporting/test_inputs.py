"""Files of other stages, read back."""

import json
from pathlib import Path

import pytest
from dvclive import Live

from components.reporting import inputs


def test_training_curves_are_what_dvclive_was_told(tmp_path: Path) -> None:
    live = Live(
        str(tmp_path / "train"), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False
    )
    for step, loss in ((10, 2.5), (20, float("nan")), (30, 1.25)):
        live.step = step
        live.log_metric("train/loss", loss)
    live.log_metric("validation/score", 0.5)
    assert inputs.read_training(tmp_path / "train") == {
        "train/loss": [(10, 2.5), (30, 1.25)],
        "validation/score": [(30, 0.5)],
    }


def test_run_without_training_curves_has_none(tmp_path: Path) -> None:
    assert inputs.read_training(tmp_path) == {}


def test_learning_curve_has_a_line_per_kind(tmp_path: Path) -> None:
    path = tmp_path / "pretraining.tsv"
    path.write_text("pictures\tcolour\tcount\n8000\t0.1\t0.2\n16000\t0.3\t0.4\n")
    assert inputs.read_learning_curve(path) == {
        "colour": [(8000, 0.1), (16000, 0.3)],
        "count": [(8000, 0.2), (16000, 0.4)],
    }


def test_base_from_elsewhere_has_no_learning_curve(tmp_path: Path) -> None:
    assert inputs.read_learning_curve(tmp_path / "some" / "hub-id" / "pretraining.tsv") == {}


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    rows = [{"answer": "a\u2028b\x85c\rd"}, {"answer": "e"}]
    path = tmp_path / "answers.jsonl"
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        encoding="utf-8",
        newline="",
    )
    assert inputs.read_lines(path) == rows


def test_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"metrics\.json: is not JSON"):
        inputs.read_json(tmp_path / "metrics.json")
