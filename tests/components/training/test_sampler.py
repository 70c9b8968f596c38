from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.training.sampler import GroupedSampler, StepSamples, even_chunks

# 10 paired, 30 with a conversation only, 15 with a caption only
HAS_CONVERSATION = [True] * 40 + [False] * 15
HAS_CAPTION = [True] * 10 + [False] * 30 + [True] * 15


LENGTHS = np.random.default_rng(0).integers(1, 100, 55)


def build(
    autoregressive: int = 8,
    contrastive: int = 8,
    seed: int = 0,
    window: int = 5,
    **flags: list[bool],
) -> GroupedSampler:
    conversation, caption = (
        flags.get("conversation", HAS_CONVERSATION),
        flags.get("caption", HAS_CAPTION),
    )
    return GroupedSampler(
        conversation, caption, LENGTHS[: len(caption)], autoregressive, contrastive, window, seed
    )


def test_every_step_has_both_groups_in_the_wanted_sizes() -> None:
    sampler = build(autoregressive=8, contrastive=12)
    for step in range(50):
        samples = sampler.samples(step)
        assert (len(samples.autoregressive), len(samples.contrastive)) == (8, 12)
        assert all(HAS_CONVERSATION[i] for i in samples.autoregressive)
        assert all(HAS_CAPTION[i] for i in samples.contrastive)


def test_samples_with_both_texts_feed_both_losses() -> None:
    sampler = build()
    for step in range(50):
        autoregressive, contrastive = map(set, sampler.samples(step))
        assert {i for i in autoregressive if HAS_CAPTION[i]} <= contrastive


@pytest.mark.parametrize("batch_size", [3, 8])
def test_each_conversation_is_used_once_per_epoch(batch_size: int) -> None:
    sampler = build(autoregressive=batch_size, contrastive=batch_size)
    used = Counter(i for step in range(40) for i in sampler.samples(step).autoregressive)
    # 40 conversations: after 40 steps each was seen `batch_size` times
    assert used == dict.fromkeys(range(40), batch_size)


def test_captions_without_conversation_are_used_evenly() -> None:
    sampler = build()  # 8 * 10 / 40 = 2 of the 8 are paired, so 6 fillers a step
    used = Counter(i for step in range(15) for i in sampler.samples(step).contrastive if i >= 40)
    assert used == dict.fromkeys(range(40, 55), 6)


def test_a_step_depends_on_nothing_but_seed_and_step() -> None:
    forward = [build().samples(step) for step in range(20)]
    sampler = build()
    assert [sampler.samples(step) for step in reversed(range(20))] == forward[::-1]
    assert build(seed=1).samples(0) != forward[0]


def test_a_window_has_the_samples_that_it_would_have_without_grouping() -> None:
    grouped, plain = build(window=10), build(window=1)
    for start in (0, 10, 20):
        for group in range(2):
            used = [
                sorted(i for step in range(start, start + 10) for i in sampler.samples(step)[group])
                for sampler in (grouped, plain)
            ]
            assert used[0] == used[1]


def test_the_steps_of_a_window_divide_the_lengths_among_them_in_random_order() -> None:
    sampler = build(window=10, conversation=[True] * 55, caption=[False] * 55, contrastive=0)
    shortest = []
    for start in range(0, 100, 10):
        ranges = [
            sorted(LENGTHS[list(sampler.samples(step).autoregressive)])
            for step in range(start, start + 10)
        ]
        by_length = sorted(ranges, key=lambda lengths: (lengths[0], lengths[-1]))
        assert all(a[-1] <= b[0] for a, b in pairwise(by_length))
        shortest.append(ranges.index(by_length[0]))
    assert len(set(shortest)) > 3


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_shards_are_contiguous_and_make_up_the_step(world_size: int) -> None:
    samples = build().samples(7)
    shards = [samples.shard(rank, world_size) for rank in range(world_size)]
    joined = StepSamples(
        *(tuple(i for shard in shards for i in shard[group]) for group in range(2))
    )
    assert joined == samples


def test_workers_share_the_paired_samples_evenly() -> None:
    flags = {"conversation": [True] * 40, "caption": [True] * 20 + [False] * 20}
    for step in range(10):
        shards = [build(16, 16, **flags).samples(step).shard(rank, 2) for rank in range(2)]
        assert [sum(i < 20 for i in shard.autoregressive) for shard in shards] == [4, 4]
        assert all(
            set(shard.contrastive) >= {i for i in shard.autoregressive if i < 20}
            for shard in shards
        )


def test_uneven_division_over_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="8 samples a step cannot be divided over 3 workers"):
        build().samples(0).shard(0, 3)


def test_contrastive_group_smaller_than_the_paired_share_is_filled_by_paired_samples() -> None:
    sampler = build(8, 4, conversation=[True] * 10, caption=[True] * 10)
    for step in range(20):
        samples = sampler.samples(step)
        assert len(samples.contrastive) == 4
        assert set(samples.contrastive) <= set(samples.autoregressive)


def test_a_group_can_be_turned_off() -> None:
    assert build(contrastive=0).samples(3).contrastive == ()
    alone = build(autoregressive=0)
    assert alone.samples(3).autoregressive == ()
    used = Counter(i for step in range(25) for i in alone.samples(step).contrastive)
    assert used == {i: 8 for i in range(55) if HAS_CAPTION[i]}  # paired captions serve as any other


@pytest.mark.parametrize(
    ("flags", "missing"),
    [({"conversation": [False] * 55}, "conversation"), ({"caption": [False] * 55}, "caption")],
)
def test_data_without_a_needed_text_is_refused(flags: dict[str, list[bool]], missing: str) -> None:
    with pytest.raises(ValueError, match=f"no training sample has a {missing}"):
        build(**flags)


@given(
    world_size=st.sampled_from([1, 2, 4]),
    size=st.integers(1, 6),
    pairs=st.integers(0, 3),
    chats=st.integers(1, 3),
    order=st.randoms(use_true_random=False),
)
def test_all_workers_have_equally_many_chunks(
    world_size: int, size: int, pairs: int, chats: int, order
) -> None:  # type: ignore[no-untyped-def]
    # one may come twice at the end of an epoch
    contrastive = tuple(order.choices(range(20), k=pairs * world_size))
    autoregressive = tuple(order.choices(range(10, 30), k=chats * world_size))
    step = StepSamples(autoregressive, contrastive)
    by_worker = [even_chunks(step, rank, world_size, size) for rank in range(world_size)]
    assert len({len(chunks) for chunks in by_worker}) == 1
    for chunks in zip(*by_worker, strict=True):
        assert len({len(chunk.contrastive) for chunk in chunks}) == 1
    assert sorted(
        i for chunks in by_worker for chunk in chunks for i in chunk.autoregressive
    ) == sorted(autoregressive)
    assert sorted(
        i for chunks in by_worker for chunk in chunks for i in chunk.contrastive
    ) == sorted(contrastive)
