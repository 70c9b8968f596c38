"""Batches of one worker in the order of the steps, prepared on threads while the previous step computes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from components.training.collate import TrainBatch, TrainSample
from components.training.sampler import StepSamples


def load_batches(
    steps: range,
    chunks_of: Callable[[int], Sequence[StepSamples]],
    read: Callable[[int], TrainSample],
    collate: Callable[[int, Mapping[int, TrainSample], StepSamples], TrainBatch],
    num_threads: int,
) -> Iterator[list[TrainBatch]]:
    """The chunks of one step at a time, prepared one step ahead of the caller; `num_threads` decode the pictures.

    chunks_of: step -> samples of this worker; read: index -> decoded sample; collate: step and
    samples of a chunk -> tensors. Errors on the threads come out here.
    """

    def load(step: int) -> list[TrainBatch]:
        chunks = chunks_of(step)
        indices = list(
            dict.fromkeys(index for chunk in chunks for group in chunk for index in group)
        )
        samples = dict(zip(indices, decoders.map(read, indices), strict=True))
        return [
            collate(step, {i: samples[i] for group in chunk for i in group}, chunk)
            for chunk in chunks
        ]

    with (
        ThreadPoolExecutor(num_threads, "decode") as decoders,
        ThreadPoolExecutor(1, "batch") as pool,
    ):
        waiting = [pool.submit(load, step) for step in steps[:1]]
        for step in steps:
            chunks = waiting.pop().result()
            if step + 1 in steps:
                waiting.append(pool.submit(load, step + 1))
            yield chunks
