import numpy as np
import pytest
from scipy import stats

from components.evaluation.intervals import BootstrapParams, cluster_sums, estimate, mean_estimate
from components.evaluation.scoring import f1

PARAMS = BootstrapParams(resamples=4000, confidence=0.95, seed=0)


def one_cluster_each(count: int) -> list[str]:
    return [f"{index:05d}" for index in range(count)]


def test_independent_rows_agree_with_scipy() -> None:
    scores = (np.random.default_rng(1).random(300) < 0.7).astype(float)
    ours = mean_estimate(scores, one_cluster_each(300), PARAMS)
    theirs = stats.bootstrap(
        (scores,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2)
    )
    assert ours.value == scores.mean()
    assert ours.count == 300
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.005)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.005)


def test_a_ratio_of_sums_agrees_with_scipy() -> None:
    counts = np.random.default_rng(3).integers(0, 3, size=(200, 3)).astype(float)
    ours = estimate(counts, one_cluster_each(200), f1, PARAMS)

    def statistic(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, axis: int) -> np.ndarray:
        return f1(np.stack([part.sum(axis=axis) for part in (tp, fp, fn)], axis=-1))

    theirs = stats.bootstrap(
        tuple(counts.T),
        statistic,
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(4),
    )
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.005)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.005)


def test_repeating_rows_inside_their_cluster_adds_no_certainty() -> None:
    scores = (np.random.default_rng(5).random(100) < 0.5).astype(float)
    once = mean_estimate(scores, one_cluster_each(100), PARAMS)
    repeated = np.repeat(scores, 9)
    clustered = mean_estimate(repeated, list(np.repeat(one_cluster_each(100), 9)), PARAMS)
    independent = mean_estimate(repeated, one_cluster_each(900), PARAMS)
    assert (clustered.low, clustered.high) == pytest.approx((once.low, once.high))
    assert independent.high - independent.low == pytest.approx((once.high - once.low) / 3, rel=0.1)


def test_the_order_of_rows_and_memory_blocks_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores, clusters = (
        np.random.default_rng(6).integers(0, 2, 50).astype(float),
        [f"c{i % 7}" for i in range(50)],
    )
    whole = mean_estimate(scores, clusters, PARAMS)
    monkeypatch.setattr("components.evaluation.intervals._GATHERED_NUMBERS", 100)
    assert mean_estimate(scores[::-1], clusters[::-1], PARAMS) == whole


def test_cluster_sums_by_hand() -> None:
    assert cluster_sums(np.array([[1.0, 1], [2, 1], [4, 1]]), ["b", "a", "b"]).tolist() == [
        [2, 1],
        [5, 2],
    ]


def test_a_score_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        mean_estimate([], [], PARAMS)
