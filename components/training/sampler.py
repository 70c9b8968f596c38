"""The samples of a training step: a function of (seed, step), whatever the number of workers.

A step has an autoregressive group, drawn from all samples with a conversation, and a contrastive
group (1 : 1 in the paper, §3.4). A sample of the first group that also has a caption is "paired":
it stands in both groups, so that its picture is compressed once and feeds both losses. Samples with
a caption only fill up the contrastive group. Nothing but the number of the step has to be saved to
resume.

Steps are grouped by length: the samples of a window of steps are sorted by the length of their text
and dealt out in consecutive parts, in random order, so that little of a batch is padding and the
workers have equally much to do.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np

PAIRED, CONVERSATION_ONLY, CAPTION_ONLY = range(3)
WINDOW = 3  # random stream of the order of the steps in a window


class StepSamples(NamedTuple):
    """Indices into the sample table: a step of all workers, a worker's slice, or a chunk."""

    autoregressive: tuple[int, ...]
    contrastive: tuple[int, ...]

    @property
    def members(self) -> list[int]:
        """Return every sample of the two groups once."""
        return list(dict.fromkeys(self.autoregressive + self.contrastive))

    def shard(self, rank: int, world_size: int) -> "StepSamples":
        """Return the contiguous slice of one worker; `world_size` divides both group sizes."""
        return StepSamples(
            _slice(self.autoregressive, rank, world_size),
            _slice(self.contrastive, rank, world_size),
        )

    def chunks(self, num_pictures: int) -> list["StepSamples"]:
        """Return parts of at most that many samples; the whole if it is no larger."""
        is_small = len(self.members) <= num_pictures
        return [self] if is_small else self.split(num_pictures)

    def split(self, num_pictures: int) -> list["StepSamples"]:
        """Split into parts with pairs, then parts with nothing but conversations.

        A sample of both groups stands in one part with both. Only the first parts need gradient
        caching.
        """
        pairs = _parts(self.contrastive, num_pictures)
        part_of: dict[int, int] = {}
        for number, part in enumerate(pairs):
            for index in part:
                part_of.setdefault(index, number)

        # conversations go where their picture is; the rest fill parts of their own
        beside: list[list[int]] = [[] for _ in pairs]
        rest: list[int] = []
        for index in self.autoregressive:
            (beside[part_of[index]] if index in part_of else rest).append(index)

        chunks: list[StepSamples] = []
        for conversations, part in zip(beside, pairs, strict=True):
            chunks.append(StepSamples(tuple(conversations), part))
        for part in _parts(tuple(rest), num_pictures):
            chunks.append(StepSamples(part, ()))
        return chunks


def even_chunks(
    step: StepSamples, rank: int, world_size: int, num_pictures: int
) -> list[StepSamples]:
    """Return the chunks of one worker's slice of a step, as many as every other worker has.

    The last ones may be empty. So all workers send and expect the same messages in the same order.
    """
    slices = [step.shard(worker, world_size) for worker in range(world_size)]
    if all(len(part.chunks(num_pictures)) == 1 for part in slices):
        return [slices[rank]]

    # a worker with fewer parts than the others fills up with empty ones
    parts = [part.split(num_pictures) for part in slices]
    num_missing = max(map(len, parts)) - len(parts[rank])
    return parts[rank] + [StepSamples((), ())] * num_missing


class GroupedSampler:
    """The samples of any step, from pools that are shuffled anew and used once per epoch.

    has_conversation, has_caption: one flag per sample. lengths: of each sample's text, in any unit.
    The batch sizes are global; 0 turns a group off. window_steps: steps whose samples are sorted by
    length; with 1 they are not. Raises ValueError when no sample fits a group that is wanted.
    """

    def __init__(
        self,
        has_conversation: Sequence[bool] | np.ndarray,
        has_caption: Sequence[bool] | np.ndarray,
        lengths: Sequence[int] | np.ndarray,
        autoregressive_batch_size: int,
        contrastive_batch_size: int,
        window_steps: int,
        seed: int,
    ) -> None:
        conversation = np.asarray(has_conversation, bool) & (autoregressive_batch_size > 0)
        caption = np.asarray(has_caption, bool) & (contrastive_batch_size > 0)
        _require("autoregressive", "conversation", autoregressive_batch_size, conversation)
        _require("contrastive", "caption", contrastive_batch_size, caption)

        # three pools; without samples that have a caption only, the paired ones fill up
        paired = conversation & caption
        others = conversation & ~paired
        fillers = caption & ~paired if (caption & ~paired).any() else paired
        self.pools = list(map(np.flatnonzero, (paired, others, fillers)))
        self.autoregressive_batch_size = autoregressive_batch_size
        self.contrastive_batch_size = contrastive_batch_size

        # on average; a step has the integer below or above
        share = Fraction(int(paired.sum()), max(int(conversation.sum()), 1))
        self.paired_per_step = share * autoregressive_batch_size

        self.lengths = np.asarray(lengths)
        self.window_steps = window_steps
        self.seed = seed
        self._window = lru_cache(maxsize=2)(self._draw_window)
        # a step touches at most two epochs of each pool
        self._order = lru_cache(maxsize=6)(self._shuffle)

    def samples(self, step: int) -> StepSamples:
        """Return the samples of one step, counted from 0, over all workers."""
        window, place = divmod(step, self.window_steps)
        paired, others, fillers = self._window(window)[place]
        shared = paired[: self.contrastive_batch_size]
        return StepSamples(_interleave(paired, others), _interleave(shared, fillers))

    def _draw_window(self, window: int) -> list[tuple[list[int], ...]]:
        """Draw, for each step of a window, its samples from each pool."""
        # the step of rank 0 gets the shortest texts
        ranks = np.random.default_rng([self.seed, WINDOW, window]).permutation(self.window_steps)
        by_pool: list[list[list[int]]] = []
        for pool, taken in enumerate(self._taken_before()):
            by_pool.append(self._deal(pool, taken, window, ranks))
        return list(zip(*by_pool, strict=True))

    def _taken_before(self) -> list[Callable[[int], int]]:
        """Return, for each pool, a function that counts its samples used before a step."""

        def paired(step: int) -> int:
            return int(self.paired_per_step * step)

        return [
            paired,
            lambda step: self.autoregressive_batch_size * step - paired(step),
            lambda step: max(0, self.contrastive_batch_size * step - paired(step)),
        ]

    def _deal(
        self, pool: int, taken: Callable[[int], int], window: int, ranks: np.ndarray
    ) -> list[list[int]]:
        """Deal the samples of a pool to the steps of a window, the shortest to rank 0."""
        # the stretch of the pool's stream that the window uses, and each step's share of it
        first = window * self.window_steps
        bounds = [taken(step) for step in range(first, first + self.window_steps + 1)]
        sizes = np.diff(bounds)
        stream = np.array(self._take(pool, bounds[0], bounds[-1]), dtype=int)

        # consecutive parts by length, as large as the steps of rank 0, 1, … need
        by_length = np.argsort(self.lengths[stream], kind="stable")
        parts = np.split(by_length, np.cumsum(sizes[np.argsort(ranks)])[:-1])

        # within a step in random order again
        return [stream[np.sort(parts[rank])].tolist() for rank in ranks]

    def _take(self, pool: int, start: int, stop: int) -> list[int]:
        """Return entries start … stop - 1 of the endless stream of a pool, epoch after epoch."""
        entries = []
        for position in range(start, stop):
            epoch, place = divmod(position, len(self.pools[pool]))
            entries.append(int(self._order(pool, epoch)[place]))
        return entries

    def _shuffle(self, pool: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, pool, epoch]).permutation(self.pools[pool])


def _require(group: str, column: str, batch_size: int, flags: np.ndarray) -> None:
    if batch_size and not flags.any():
        raise ValueError(
            f"no training sample has a {column}, but {batch_size} a step are wanted; "
            f"add such data or set {group}_batch_size to 0"
        )


def _interleave(paired: Sequence[int], others: Sequence[int]) -> tuple[int, ...]:
    """Merge both lists, each in its own order and the paired evenly spread.

    So each worker's slice has its share of the paired in both groups.
    """
    total = len(paired) + len(others)
    merged = list(others)
    # from the front on: what comes in later moves nobody who is already in place
    for index, sample in enumerate(paired):
        merged.insert(index * total // len(paired), sample)
    return tuple(merged)


def _parts(group: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    return [group[start : start + size] for start in range(0, len(group), size)]


def _slice(group: tuple[int, ...], rank: int, world_size: int) -> tuple[int, ...]:
    if len(group) % world_size:
        raise ValueError(f"{len(group)} samples a step cannot be divided over {world_size} workers")
    size = len(group) // world_size
    return group[rank * size : (rank + 1) * size]
