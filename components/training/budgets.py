"""One set of weights for several numbers of summary tokens: conversations read prefixes.

The queries are read causally, so the first k' summary tokens are the same however many follow.
Training prefixes makes them useful by themselves, the coarse first (Matryoshka representations,
Kusupati et al., 2022, arXiv 2205.13147).
"""

from typing import NamedTuple

import numpy as np

STREAM = 4  # of the random numbers of training; 0 to 3 are the sampler's


class Budgets(NamedTuple):
    """The prefixes of one step: the contrastive loss trains all of them, each conversation one."""

    sizes: tuple[int, ...]  # numbers of summary tokens
    seed: int
    step: int

    def of_conversation(self, index: int) -> int:
        """Draw the number of summary tokens that the conversation of a sample reads.

        It is the same whichever worker has the sample.
        """
        if len(self.sizes) == 1:
            return self.sizes[0]
        return int(np.random.default_rng([self.seed, STREAM, self.step, index]).choice(self.sizes))


def all_tokens(num_summary_tokens: int) -> Budgets:
    """Return the budgets under which every conversation reads all tokens."""
    return Budgets((num_summary_tokens,), 0, 0)
