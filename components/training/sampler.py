"""Which samples form a training step: a pure function of (seed, step), whatever the number of workers.

A step has an autoregressive group, drawn from all samples with a conversation, and a contrastive group (1 : 1 in the
paper, §3.4). A sample of the first group that also has a caption is "paired": it stands in both groups, so that its
picture is compressed once and feeds both losses. Samples with a caption only fill up the contrastive group. Nothing but
the number of the step has to be saved to resume.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np

PAIRED, CONVERSATION_ONLY, CAPTION_ONLY = range(3)


class StepSamples(NamedTuple):
    """Indices into the table of training samples: one step of all workers, or the slice of one worker."""

    autoregressive: tuple[int, ...]
    contrastive: tuple[int, ...]

    def shard(self, rank: int, world_size: int) -> "StepSamples":
        """The contiguous slice of one worker; `world_size` divides both group sizes."""
        return StepSamples(*(_slice(group, rank, world_size) for group in self))


class GroupedSampler:
    """Gives the samples of any step; each pool is shuffled anew per epoch and used once per epoch.

    has_conversation, has_caption: one flag per sample. The batch sizes are global; 0 turns a group off.
    Raises ValueError when no sample fits a group that is wanted.
    """

    def __init__(
        self,
        has_conversation: Sequence[bool] | np.ndarray,
        has_caption: Sequence[bool] | np.ndarray,
        autoregressive_batch_size: int,
        contrastive_batch_size: int,
        seed: int,
    ) -> None:
        conversation = np.asarray(has_conversation, bool) & (autoregressive_batch_size > 0)
        caption = np.asarray(has_caption, bool) & (contrastive_batch_size > 0)
        _require("autoregressive", "conversation", autoregressive_batch_size, conversation)
        _require("contrastive", "caption", contrastive_batch_size, caption)
        paired = conversation & caption
        fillers = caption & ~paired if (caption & ~paired).any() else paired
        self.pools = [np.flatnonzero(flags) for flags in (paired, conversation & ~paired, fillers)]
        self.autoregressive_batch_size = autoregressive_batch_size
        self.contrastive_batch_size = contrastive_batch_size
        share = Fraction(int(paired.sum()), max(int(conversation.sum()), 1))
        self.paired_per_step = share * autoregressive_batch_size  # on average; a step has the integer below or above
        self.seed = seed
        self._order = lru_cache(maxsize=6)(self._shuffle)  # a step touches at most two epochs of each pool

    def samples(self, step: int) -> StepSamples:
        """The samples of one step, counted from 0, over all workers."""
        before, after = int(self.paired_per_step * step), int(self.paired_per_step * (step + 1))
        paired = self._take(PAIRED, before, after)
        size = self.autoregressive_batch_size
        others = self._take(CONVERSATION_ONLY, size * step - before, size * (step + 1) - after)
        shared = paired[: self.contrastive_batch_size]
        size = self.contrastive_batch_size
        fillers = self._take(CAPTION_ONLY, max(0, size * step - before), max(0, size * (step + 1) - after))
        return StepSamples(_interleave(paired, others), _interleave(shared, fillers))

    def _take(self, pool: int, start: int, stop: int) -> list[int]:
        """Entries start … stop - 1 of the endless stream of a pool."""
        num_members = len(self.pools[pool])
        return [int(self._order(pool, at // num_members)[at % num_members]) for at in range(start, stop)]

    def _shuffle(self, pool: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, pool, epoch]).permutation(self.pools[pool])


def _require(group: str, column: str, batch_size: int, flags: np.ndarray) -> None:
    if batch_size and not flags.any():
        raise ValueError(
            f"no training sample has a {column}, but {batch_size} a step are wanted; "
            f"add such data or set {group}_batch_size to 0"
        )


def _interleave(paired: Sequence[int], others: Sequence[int]) -> tuple[int, ...]:
    """Both lists in their own order, the paired evenly spread: each worker gets its share of them in both groups."""
    total, rest = len(paired) + len(others), iter(others)
    places = {index * total // len(paired): sample for index, sample in enumerate(paired)}
    return tuple(places[at] if at in places else next(rest) for at in range(total))


def _slice(group: tuple[int, ...], rank: int, world_size: int) -> tuple[int, ...]:
    if len(group) % world_size:
        raise ValueError(f"{len(group)} samples a step cannot be divided over {world_size} workers")
    size = len(group) // world_size
    return group[rank * size : (rank + 1) * size]
