from concurrent.futures import Executor

import pytest

from components.training.loader import load_ahead


def decode(index: int) -> str:
    if index == 99:
        raise ValueError("sample 99 is damaged")
    return str(index)


def load(step: int, decoders: Executor) -> tuple[int, list[str]]:
    return step, list(decoders.map(decode, (step, step + 1, step + 2)))


@pytest.mark.parametrize("num_threads", [1, 3])
def test_steps_come_in_order_with_their_samples(num_threads: int) -> None:
    for step, batch in zip(range(4, 9), load_ahead(range(4, 9), load, num_threads), strict=True):
        assert batch == (step, [str(step), str(step + 1), str(step + 2)])


def test_no_steps_give_nothing() -> None:
    assert list(load_ahead(range(5, 5), load, 2)) == []


def test_damage_comes_out_where_the_batch_is_wanted() -> None:
    batches = load_ahead(range(95, 99), load, 1)
    assert next(batches)
    assert next(batches)
    with pytest.raises(ValueError, match="sample 99 is damaged"):
        next(batches)
