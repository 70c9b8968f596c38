"""Batches in the order of the steps, each prepared on threads while the step before it computes."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

Batch = TypeVar("Batch")


def load_ahead(
    steps: range, load: Callable[[int, Executor], Batch], num_threads: int
) -> Iterator[Batch]:
    """Yield `load(step, decoders)` of each step, computed one step ahead of the caller.

    `load` runs on a thread of its own and hands its slow parts to the `num_threads` decoders.
    Errors on the threads come out here.
    """
    with (
        ThreadPoolExecutor(num_threads, "decode") as decoders,
        ThreadPoolExecutor(1, "batch") as ahead,
    ):
        # holds one batch at most, and none when there are no steps
        waiting = [ahead.submit(load, step, decoders) for step in steps[:1]]
        for step in steps:
            batch = waiting.pop().result()
            if step + 1 in steps:
                waiting.append(ahead.submit(load, step + 1, decoders))
            yield batch
