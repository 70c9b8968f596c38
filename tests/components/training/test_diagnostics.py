"""A history of each kind of trouble gives its sign; a good one gives none."""

import pytest

from components.training.diagnostics import RunSettings, findings
from components.training.state import HistoryRow

RUN = RunSettings(
    num_steps=100, contrastive_batch_size=32, contrastive_weight=1.0, max_logit_scale=100.0
)
GOOD = {
    "train/contrastive_loss": 0.5,
    "train/gradient_norm_compression": 1.0,
    "train/gradient_norm_generation": 0.5,
    "train/logit_scale": 20.0,
    "train/skipped_steps": 0.0,
    "validation/recall_at_1_image_to_text": 0.8,
    "validation/recall_at_1_text_to_image": 0.7,
    "validation/short_answer_accuracy": 0.9,
    "validation/adapter_cosine": 0.05,
}
LOW_RECALL = {
    "validation/recall_at_1_image_to_text": 0.2,
    "validation/recall_at_1_text_to_image": 0.1,
}
LOW = {key.replace("/", "__"): value for key, value in LOW_RECALL.items()}


def names(step: int, run: RunSettings = RUN, **changes: float) -> list[str]:
    row = HistoryRow(
        step=step,
        metrics=GOOD | {key.replace("__", "/"): v for key, v in changes.items()},
        timings={},
    )
    return [finding.name for finding in findings([row], run)]


def test_a_good_run_shows_nothing() -> None:
    assert names(10) == names(90) == []


@pytest.mark.parametrize(
    ("step", "changes", "expected"),
    [
        (10, {"train__contrastive_loss": 0.001}, ["contrastive_loss_collapsed"]),
        (90, {"train__contrastive_loss": 0.001}, []),  # late, and search works
        (
            90,
            {"train__contrastive_loss": 0.1, **LOW},
            ["contrastive_batch_too_small", "retrieval_lags"],
        ),
        (90, {"train__contrastive_loss": 3.0, **LOW}, ["retrieval_lags"]),
        (10, {"train__contrastive_loss": 3.0, **LOW}, []),  # too early to tell
        (10, {"validation__adapter_cosine": 0.99}, ["adapters_alike"]),
        (10, {"train__gradient_norm_generation": 1e-5}, ["adapter_idle"]),
        (10, {"train__logit_scale": 100.0}, ["logit_scale_at_its_maximum"]),
        (10, {"train__skipped_steps": 2.0}, ["steps_skipped"]),
    ],
)
def test_each_trouble_has_its_sign(
    step: int, changes: dict[str, float], expected: list[str]
) -> None:
    assert names(step, **changes) == expected


def test_one_adapter_alone_is_never_called_idle() -> None:
    metrics = {
        name: value for name, value in GOOD.items() if name != "train/gradient_norm_compression"
    }
    row = HistoryRow(
        step=10, metrics=metrics | {"train/gradient_norm_generation": 1e-9}, timings={}
    )
    assert [finding.name for finding in findings([row], RUN)] == []


def test_a_run_without_the_loss_is_told_why_search_lags() -> None:
    row = HistoryRow(step=90, metrics=GOOD | LOW_RECALL, timings={})
    (finding,) = findings([row], RUN._replace(contrastive_weight=0.0))
    assert finding.name == "retrieval_lags"
    assert "without it nothing trains search" in finding.message


def test_a_sign_comes_once_and_values_of_earlier_rows_count() -> None:
    rows = [
        HistoryRow(
            step=40, metrics={"validation/short_answer_accuracy": 0.9, **LOW_RECALL}, timings={}
        ),
        HistoryRow(step=50, metrics={"train/contrastive_loss": 3.0}, timings={}),
        HistoryRow(step=60, metrics={"train/contrastive_loss": 2.9}, timings={}),
    ]
    assert [finding.name for finding in findings(rows, RUN)] == ["retrieval_lags"]
