"""Confidence intervals by a percentile bootstrap over clusters.

Questions about one picture share its luck, so pictures are drawn, not questions. Every score here
is a function of column sums (a mean is sum of scores / number of rows; F1 and BLEU are functions of
counts), so a resample costs one gather of cluster sums.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from components.params import Params

Statistic = Callable[[np.ndarray], np.ndarray]  # column sums (resamples, columns) -> (resamples,)
_GATHERED_NUMBERS = 4_000_000  # numbers held at once, 32 MB


class BootstrapParams(Params):
    """Resampling of intervals."""

    resamples: int = Field(ge=1)  # bootstrap draws per interval
    confidence: float = Field(gt=0, lt=1)  # mass inside the interval
    seed: int = Field(ge=0)  # of the draws


@dataclass(frozen=True)
class Estimate:
    """Score with its interval and the number of rows it was taken over."""

    value: float
    low: float
    high: float
    count: int


def mean_estimate(
    scores: Sequence[float] | np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    params: BootstrapParams,
) -> Estimate:
    """Estimate the mean of `scores`, one per row.

    Rows with the same entry of `clusters` are drawn together.
    """
    columns = np.stack([np.asarray(scores, dtype=np.float64), np.ones(len(scores))], axis=1)
    return estimate(columns, clusters, lambda sums: sums[..., 0] / sums[..., 1], params)


def estimate(
    columns: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    statistic: Statistic,
    params: BootstrapParams,
) -> Estimate:
    """Estimate `statistic` of the sums of `columns` (rows, columns), with its clustered interval.

    Raises ValueError if there are no rows.
    """
    if len(columns) == 0:
        raise ValueError("a score over no rows has no value; leave the benchmark out instead")

    # Pictures are drawn, not rows: their sums are all that a resample needs.
    sums = cluster_sums(columns, clusters)
    blocks = resampled_sums(sums, params.resamples, params.seed)
    draws = np.concatenate(list(map(statistic, blocks)))

    # The percentile interval, around the score of the pictures as they are.
    tail = (1 - params.confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    value = statistic(sums.sum(axis=0, keepdims=True))[0]
    return Estimate(float(value), float(low), float(high), len(columns))


def cluster_sums(columns: np.ndarray, clusters: Sequence[str] | np.ndarray) -> np.ndarray:
    """Sum the columns per cluster, (clusters, columns), in order of the cluster's name."""
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros((len(names), columns.shape[1]))
    np.add.at(sums, index, columns)
    return sums


def resampled_sums(sums: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield blocks (≤ resamples, columns) of the column sums of clusters drawn with replacement."""
    rng = np.random.default_rng(seed)
    # In blocks: all resamples at once would not fit into memory.
    block = max(1, _GATHERED_NUMBERS // sums.size)
    for start in range(0, resamples, block):
        drawn = rng.integers(len(sums), size=(min(block, resamples - start), len(sums)))
        yield sums[drawn].sum(axis=1)
