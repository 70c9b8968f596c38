from collections.abc import Mapping
from typing import Any, cast

import pytest

from components.training.collate import TrainBatch, TrainSample
from components.training.loader import load_batches
from components.training.sampler import StepSamples


def groups_of(step: int) -> StepSamples:
    return StepSamples((step, step + 1), (step + 1, step + 2))


def read(index: int) -> TrainSample:
    if index == 99:
        raise ValueError("sample 99 is damaged")
    return TrainSample(str(index), None, [], None)


def collate(samples: Mapping[int, TrainSample], groups: StepSamples) -> TrainBatch:
    return cast(TrainBatch, (dict(samples), groups))


def load(steps: range, num_threads: int = 2) -> list[Any]:
    return list(load_batches(steps, groups_of, read, collate, num_threads))


@pytest.mark.parametrize("num_threads", [1, 3])
def test_batches_come_in_order_with_each_sample_read_once(num_threads: int) -> None:
    for step, (samples, groups) in zip(range(4, 9), load(range(4, 9), num_threads), strict=True):
        assert groups == groups_of(step)
        assert [sample.sample_id for sample in samples.values()] == [str(step), str(step + 1), str(step + 2)]


def test_no_steps_give_no_batches() -> None:
    assert load(range(5, 5)) == []


def test_damage_comes_out_where_the_batch_is_wanted() -> None:
    batches = load_batches(range(95, 99), groups_of, read, collate, 1)
    assert next(batches)
    assert next(batches)
    with pytest.raises(ValueError, match="sample 99 is damaged"):
        next(batches)
