"""Batches of one worker in the order of the steps, prepared on threads while the previous step computes."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from components.training.collate import TrainBatch, TrainSample
from components.training.sampler import StepSamples


def load_batches(
    steps: range,
    groups_of: Callable[[int], StepSamples],
    read: Callable[[int], TrainSample],
    collate: Callable[[Mapping[int, TrainSample], StepSamples], TrainBatch],
    num_threads: int,
) -> Iterator[TrainBatch]:
    """One batch per step, prepared one step ahead of the caller; `num_threads` decode its pictures.

    groups_of: step -> samples of this worker; read: index -> decoded sample. Errors on the threads come out here.
    """

    def load(step: int) -> TrainBatch:
        groups = groups_of(step)
        indices = list(dict.fromkeys(groups.autoregressive + groups.contrastive))
        return collate(dict(zip(indices, decoders.map(read, indices), strict=True)), groups)

    with ThreadPoolExecutor(num_threads, "decode") as decoders, ThreadPoolExecutor(1, "batch") as pool:
        waiting = [pool.submit(load, step) for step in steps[:1]]
        for step in steps:
            batch = waiting.pop().result()
            if step + 1 in steps:
                waiting.append(pool.submit(load, step + 1))
            yield batch
