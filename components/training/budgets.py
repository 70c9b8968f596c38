"""One set of weights for several numbers of summary tokens: each step trains a prefix of the queries.

The queries are read causally, so the first k' summary tokens are the same however many follow. Training prefixes makes
them useful by themselves, the coarse first (Matryoshka representations, Kusupati et al., 2022, arXiv 2205.13147).
"""

from collections.abc import Sequence

import numpy as np

STREAM = 4  # of the random numbers of training; 0 to 3 are the sampler's


def budget_of_step(seed: int, step: int, budgets: Sequence[int]) -> int:
    """The number of summary tokens of a step, the same on every worker."""
    return int(np.random.default_rng([seed, STREAM, step]).choice(budgets))
