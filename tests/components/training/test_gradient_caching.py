"""Chunks change the memory of a step, not its gradient."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.methods.fwd2bot import DoubleForward
from components.methods.method import enable_gradient_checkpointing
from components.training.budgets import all_tokens
from components.training.collate import TrainBatch, collate
from components.training.forward import (
    LossParams,
    Pairs,
    embed_pairs,
    pair_losses,
    summary_tokens_of,
)
from components.training.gradient_caching import backward_in_chunks
from components.training.optimizer import trained_parameters
from components.training.sampler import StepSamples
from components.training.step import backward_step
from tests.components.model.tiny import compressor
from tests.components.training.world import LENGTHS, build_model, in_processes, samples

BOTH = LossParams(autoregressive_weight=1.0, contrastive_weight=0.5, max_similarity_weight=0.0)
ALL = BOTH.model_copy(update={"max_similarity_weight": 0.3})
# Of the conversations 0, 1, 5, 6 have captions in the group, 2 and 7 have none, 4 has no picture.
GROUPS = StepSamples(
    autoregressive=(0, 2, 4, 5, 6, 7, 1, 9), contrastive=(0, 5, 3, 8, 6, 1, 13, 18)
)
SIZES = [1, 3, 5, 100]


def chunks_of(
    model: DoubleForward,
    size: int,
    turns: str = "together",
    groups: StepSamples = GROUPS,
    max_row_tokens: int | None = None,
) -> list[TrainBatch]:
    table = samples(40)
    texts = LENGTHS.model_copy(update={"turns": turns, "max_row_tokens": max_row_tokens})
    return [
        collate(
            {i: table[i] for group in chunk for i in group},
            chunk,
            model.backbone,
            all_tokens(model.num_summary_tokens),
            texts,
        )
        for chunk in groups.chunks(size)
    ]


def gradient(model: DoubleForward) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in trained_parameters(model).values()])


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("max_row_tokens", [None, 120])
@pytest.mark.parametrize("turns", ["together", "apart"])
@pytest.mark.parametrize("size", SIZES)
def test_chunks_packing_and_checkpoints_give_the_gradient_of_the_whole(
    llava_folder: Path, size: int, turns: str, max_row_tokens: int | None, is_checkpointed: bool
) -> None:
    """The whole is compared with a model without PEFT in tests/components/model."""
    model = build_model(llava_folder).double()
    (whole,) = chunks_of(model, 100, turns)
    expected = backward_step(model, [whole], BOTH)
    reference = gradient(model)
    if is_checkpointed:
        enable_gradient_checkpointing(model)
    chunks = chunks_of(model, size, turns, max_row_tokens=max_row_tokens)
    num_rows = sum(len(chunk.conversation_ids) for chunk in chunks)
    assert (len(chunks) > 1) == (size < 100)
    assert (num_rows < len(GROUPS.autoregressive)) == (max_row_tokens is not None and size > 1)
    values = backward_step(model, chunks, BOTH)
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=0)
    assert (gradient(model) - reference).norm() / reference.norm() < 1e-8


@pytest.mark.parametrize("losses", [BOTH, ALL])
@pytest.mark.parametrize("size", [1, 3])
def test_hard_negatives_pass_through_chunks_too(
    llava_folder: Path, size: int, losses: LossParams
) -> None:
    model = build_model(llava_folder).double()
    texts = LENGTHS.model_copy(update={"hard_negatives": (("red", "green"),)})
    table = {
        index: sample._replace(hard_negatives=[f"a wrong one, {index}"] if index % 2 else [])
        for index, sample in samples(40).items()
    }

    def chunks(size: int) -> list[TrainBatch]:
        return [
            collate(
                {i: table[i] for group in chunk for i in group},
                chunk,
                model.backbone,
                all_tokens(4),
                texts,
            )
            for chunk in GROUPS.chunks(size)
        ]

    (whole,) = chunks(100)
    plain = backward_step(model, chunks_of(model, 100), losses)
    expected = backward_step(model, [whole], losses)
    assert expected["contrastive_loss"] > plain["contrastive_loss"]
    reference = gradient(model)
    torch.testing.assert_close(
        backward_step(model, chunks(size), losses), expected, rtol=1e-10, atol=0
    )
    assert (gradient(model) - reference).norm() / reference.norm() < 1e-8


def test_dropout_drops_the_same_in_both_readings(llava_folder: Path) -> None:
    """The reference keeps the graphs of all chunks, with random numbers in the same order."""
    model = compressor(llava_folder, torch.float64).double().train()
    chunks = chunks_of(model, 3, groups=GROUPS._replace(autoregressive=()))
    torch.manual_seed(5)
    backward_in_chunks(model, chunks, BOTH)
    cached = gradient_or_zero(model)

    model.zero_grad()
    torch.manual_seed(5)
    pairs = [embed_pairs(model, chunk, summary_tokens_of(model, chunk), BOTH) for chunk in chunks]
    all_pairs = Pairs(*map(torch.cat, zip(*pairs, strict=True)))
    loss, _ = pair_losses(model, all_pairs, chunks, BOTH)
    (BOTH.contrastive_weight * loss).backward()
    torch.testing.assert_close(cached, gradient_or_zero(model), rtol=1e-9, atol=1e-12)


def gradient_or_zero(model: DoubleForward) -> Tensor:
    parts = [
        torch.zeros_like(p) if p.grad is None else p.grad
        for p in trained_parameters(model).values()
    ]
    return torch.cat([part.flatten() for part in parts])


def test_graphs_exist_one_at_a_time(llava_folder: Path) -> None:
    """The bytes kept for the backward pass are those of the largest chunk, not their sum."""
    model = build_model(llava_folder)
    peaks = {}
    for size in (4, 100):
        chunks = chunks_of(model, size)
        now, peaks[size] = [0], [0]

        def pack(tensor: Tensor, now: list[int] = now, peak: list[int] = peaks[size]) -> "Kept":
            return Kept(tensor, now, peak)

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            backward_step(model, chunks, BOTH)
        assert now[0] == 0
    assert peaks[4][0] < 0.5 * peaks[100][0]


class Kept:
    """A tensor saved for the backward pass; counts bytes as long as the graph holds it."""

    def __init__(self, tensor: Tensor, now: list[int], peak: list[int]) -> None:
        self.tensor, self.now = tensor, now
        self.num_bytes = tensor.numel() * tensor.element_size()
        now[0] += self.num_bytes
        peak[0] = max(peak[0], now[0])

    def __del__(self) -> None:
        self.now[0] -= self.num_bytes


# The first worker of two has eight samples, the second four that stand in both groups.
UNEVEN = StepSamples(
    autoregressive=(4, 9, 14, 19, 0, 1, 5, 6), contrastive=(3, 8, 13, 18, 0, 1, 5, 6)
)


def uneven_worker(rank: int, folder: Path, llava_folder: Path) -> None:
    model = build_model(llava_folder).double()
    chunks = chunks_of(model, 5, groups=UNEVEN.shard(rank, 2))
    assert (len(chunks) == 1) == (rank == 1)
    backward_step(model, chunks, BOTH)
    torch.save(gradient(model), folder / f"{rank}.pt")


def test_one_worker_may_need_chunks_and_another_none(llava_folder: Path, tmp_path: Path) -> None:
    in_processes(2, uneven_worker, tmp_path, llava_folder)
    model = build_model(llava_folder).double()
    backward_step(model, chunks_of(model, 100, groups=UNEVEN), BOTH)
    whole = gradient(model)
    for rank in range(2):
        assert (torch.load(tmp_path / f"{rank}.pt") - whole).norm() / whole.norm() < 1e-8


def worker(
    rank: int, folder: Path, llava_folder: Path, world_size: int, dtype: torch.dtype
) -> None:
    model = build_model(llava_folder).to(dtype)
    backward_step(model, chunks_of(model, 2, groups=GROUPS.shard(rank, world_size)), ALL)
    torch.save(gradient(model), folder / f"{rank}.pt")


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-8)])
def test_workers_with_chunks_give_the_gradient_of_one_without(
    llava_folder: Path, tmp_path: Path, world_size: int, dtype: torch.dtype, tolerance: float
) -> None:
    in_processes(world_size, worker, tmp_path, llava_folder, world_size, dtype)
    model = build_model(llava_folder).to(dtype)
    backward_step(model, chunks_of(model, 100), ALL)
    whole = gradient(model)
    for rank in range(world_size):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert (found - whole).norm() / whole.norm() < tolerance


def members(chunks: Sequence[StepSamples], group: int) -> list[int]:
    return sorted(index for chunk in chunks for index in chunk[group])


@pytest.mark.parametrize("size", SIZES)
def test_chunks_hold_every_sample_of_each_group_once(size: int) -> None:
    chunks = GROUPS.chunks(size)
    assert members(chunks, 0) == sorted(GROUPS.autoregressive)
    assert members(chunks, 1) == sorted(GROUPS.contrastive)
    assert (
        all(len(set(chunk.autoregressive + chunk.contrastive)) <= size for chunk in chunks)
        or size == 100
    )
    for chunk in chunks[: len(GROUPS.contrastive) // size]:
        assert set(chunk.autoregressive) <= set(chunk.contrastive)


def test_a_sample_that_occurs_twice_is_learnt_from_twice() -> None:
    groups = StepSamples((1, 1, 2), (1, 3, 1, 2))
    chunks = groups.chunks(2)
    assert chunks == [StepSamples((1, 1), (1, 3)), StepSamples((2,), (1, 2))]
