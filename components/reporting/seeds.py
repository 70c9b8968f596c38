"""Means over runs that differ in their seed, with intervals."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

# Two-sided 95 % points of Student's t by degrees of freedom; of the normal distribution beyond.
T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


class Estimate(NamedTuple):
    """A mean, and half of its 95 % interval over seeds; a single one has none."""

    mean: float
    half: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of values. Raises statistics.StatisticsError if there is none."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Estimate(mean, None)
    t_95 = T_95.get(len(values) - 1, 1.96)
    return Estimate(mean, t_95 * statistics.stdev(values) / len(values) ** 0.5)
