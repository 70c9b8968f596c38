"""Layers spread over workers: the gradient of one process, however uneven the samples."""

from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from components.methods.fwd2bot import DoubleForward
from components.methods.method import enable_gradient_checkpointing
from components.training.budgets import Budgets
from components.training.collate import TrainBatch, collate
from components.training.forward import LossParams
from components.training.optimizer import trained_parameters
from components.training.sampler import StepSamples, even_chunks
from components.training.sharding import PLACEHOLDER, shard_decoder, whole_decoder, with_placeholder
from components.training.step import backward_step
from tests.components.model.tiny import prepared
from tests.components.training.world import LENGTHS, build_model, in_processes, samples

BOTH = LossParams(autoregressive_weight=1.0, contrastive_weight=0.5, max_similarity_weight=0.0)
# The first worker of two has text-only conversations (4, 9, 14, 19), the second pairs; 3, 8, 13, 18
# have captions only.
UNEVEN = StepSamples(
    autoregressive=(4, 9, 14, 19, 0, 1, 5, 6), contrastive=(3, 8, 13, 18, 0, 1, 5, 6)
)


NESTED = Budgets((1, 2, 4), seed=0, step=3)
APART = LENGTHS.model_copy(update={"turns": "apart", "max_row_tokens": 90})


def chunks_of(model: DoubleForward, rank: int, world_size: int, size: int) -> list[TrainBatch]:
    """Nested budgets, turns apart and packed rows: what a step can be at most."""
    table, batches = samples(40), []
    for groups in even_chunks(UNEVEN, rank, world_size, size):
        mine, filled = with_placeholder({i: table[i] for group in groups for i in group}, groups)
        batches.append(collate(mine, filled, model.backbone, NESTED, APART))
    return batches


def gradient(model: DoubleForward) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in trained_parameters(model).values()])


def train_worker(
    rank: int, folder: Path, llava_folder: Path, world_size: int, size: int, is_checkpointed: bool
) -> None:
    model = build_model(llava_folder).double()
    if is_checkpointed:
        enable_gradient_checkpointing(model)
    shard_decoder(model)
    backward_step(model, chunks_of(model, rank, world_size, size), BOTH)
    # a validation in which the first worker has nothing to read
    with torch.no_grad(), whole_decoder(model):
        for _ in range(rank):
            model.compress_pictures(prepared(torch.zeros(1, 3, 48, 48)))
    values = backward_step(model, chunks_of(model, rank, world_size, size), BOTH)
    torch.save((values, gradient(model)), folder / f"{rank}.pt")


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize(("world_size", "size"), [(2, 100), (2, 3), (2, 5), (4, 2)])
def test_the_gradient_is_that_of_one_process(
    llava_folder: Path, tmp_path: Path, world_size: int, size: int, is_checkpointed: bool
) -> None:
    in_processes(
        world_size, train_worker, tmp_path, llava_folder, world_size, size, is_checkpointed
    )
    model = build_model(llava_folder).double()
    table = samples(40)
    mine = {i: table[i] for group in UNEVEN for i in group}
    expected = backward_step(model, [collate(mine, UNEVEN, model.backbone, NESTED, APART)], BOTH)
    whole = gradient(model)
    for rank in range(world_size):
        values, found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(values, expected, rtol=1e-10, atol=0)
        assert (found - whole).norm() / whole.norm() < 1e-8


def memory_worker(rank: int, folder: Path, llava_folder: Path) -> None:
    model = build_model(llava_folder)
    frozen = [p for p in model.backbone.language_model.layers.parameters() if not p.requires_grad]
    before = sum(p.numel() for p in frozen)
    shard_decoder(model)
    parameters = list(model.backbone.language_model.layers.parameters())
    kept = sum(p.to_local().numel() for p in parameters if isinstance(p, DTensor))
    assert kept == before // 2
    assert not any(isinstance(p, DTensor) for p in trained_parameters(model).values())
    (folder / f"{rank}").touch()


def test_each_worker_keeps_its_share_of_what_is_frozen(llava_folder: Path, tmp_path: Path) -> None:
    in_processes(2, memory_worker, tmp_path, llava_folder)
    assert len(list(tmp_path.iterdir())) == 2


def uneven_reader(rank: int, folder: Path, llava_folder: Path) -> None:
    model = build_model(llava_folder).eval()
    pixels = prepared(torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)))
    expected = model.compress_pictures(pixels)
    shard_decoder(model)
    for _ in range(2):
        with torch.no_grad(), whole_decoder(model):
            for _ in range(1 + 2 * rank):
                assert torch.equal(model.compress_pictures(pixels), expected)
        assert all(
            isinstance(p, DTensor)
            for p in model.backbone.language_model.layers[0].mlp.up_proj.base_layer.parameters()
        )
        torch.testing.assert_close(model.compress_pictures(pixels), expected)
    (folder / f"{rank}").touch()


def test_whole_layers_can_be_read_unevenly(llava_folder: Path, tmp_path: Path) -> None:
    in_processes(2, uneven_reader, tmp_path, llava_folder)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_placeholder_stands_where_no_conversation_is_about_a_picture() -> None:
    table = samples(5)
    text_only, caption_only, paired = 4, 3, 0
    for groups in (
        StepSamples((text_only,), ()),
        StepSamples((), (caption_only,)),
        StepSamples((4,), (3,)),
    ):
        filled, after = with_placeholder(table, groups)
        assert PLACEHOLDER in filled
        assert after == groups._replace(autoregressive=(*groups.autoregressive, PLACEHOLDER))
    assert with_placeholder(table, StepSamples((paired,), ())) == (
        table,
        StepSamples((paired,), ()),
    )
