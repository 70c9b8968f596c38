"""Runs that differ in their seed alone: their mean, and how far apart they are.

Two or three seeds are too few for an interval: what is shown is the lowest and the highest.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The mean of one value per seed, the lowest and the highest."""

    mean: float
    lowest: float
    highest: float
    num_seeds: int

    def text(self, written: Callable[[float], str]) -> str:
        """Write 0.904 (0.881 … 0.927); a single seed alone."""
        if self.num_seeds == 1:
            return written(self.mean)
        return f"{written(self.mean)} ({written(self.lowest)} … {written(self.highest)})"


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of values. Raises statistics.StatisticsError if there is none."""
    return Spread(statistics.fmean(values), min(values), max(values), len(values))
