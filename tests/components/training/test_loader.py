from collections.abc import Mapping
from typing import Any, cast

import pytest

from components.training.collate import TrainBatch, TrainSample
from components.training.loader import load_batches
from components.training.sampler import StepSamples


def chunks_of(step: int) -> list[StepSamples]:
    return [StepSamples((step, step + 1), (step + 1, step + 2)), StepSamples((step,), ())]


def read(index: int) -> TrainSample:
    if index == 99:
        raise ValueError("sample 99 is damaged")
    return TrainSample(str(index), None, [], None)


def collate(step: int, samples: Mapping[int, TrainSample], groups: StepSamples) -> TrainBatch:
    return cast(TrainBatch, (step, dict(samples), groups))


def load(steps: range, num_threads: int = 2) -> list[Any]:
    return list(load_batches(steps, chunks_of, read, collate, num_threads))


@pytest.mark.parametrize("num_threads", [1, 3])
def test_steps_come_in_order_and_each_chunk_has_its_samples(num_threads: int) -> None:
    for step, chunks in zip(range(4, 9), load(range(4, 9), num_threads), strict=True):
        assert [(number, groups) for number, _, groups in chunks] == [
            (step, groups) for groups in chunks_of(step)
        ]
        (_, first, _), (_, second, _) = chunks
        assert [sample.sample_id for sample in first.values()] == [
            str(step),
            str(step + 1),
            str(step + 2),
        ]
        assert second == {step: first[step]}


def test_no_steps_give_nothing() -> None:
    assert load(range(5, 5)) == []


def test_damage_comes_out_where_the_batch_is_wanted() -> None:
    batches = load_batches(range(95, 99), chunks_of, read, collate, 1)
    assert next(batches)
    assert next(batches)
    with pytest.raises(ValueError, match="sample 99 is damaged"):
        next(batches)
