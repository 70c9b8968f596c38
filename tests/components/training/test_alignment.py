"""The first phase: hidden words of captions, read from both sides by the compression adapter."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.methods.fwd2bot import DoubleForward
from components.model.adapters import COMPRESSION
from components.model.segments import text_segment
from components.training.alignment import alignment_loss_sum, backward_alignment, hide_tokens
from components.training.budgets import all_tokens
from components.training.collate import TrainBatch, collate
from components.training.optimizer import build_optimizer, trained_parameters
from components.training.sampler import StepSamples
from components.training.step import update_weights
from tests.components.model.tiny import COMPRESSOR, compressor
from tests.components.training.world import LENGTHS, OPTIMIZER, in_processes, samples

ALL = 1 - 1e-9  # of the tokens hidden: nothing is left to chance
PAIRS = StepSamples((), (0, 5, 3, 8, 6, 1))


def build(llava_folder: Path, attention: str = "bidirectional") -> DoubleForward:
    adapters = COMPRESSOR.adapters.model_copy(update={"dropout": 0.0})
    params = COMPRESSOR.model_copy(update={"adapters": adapters, "attention": attention})
    return compressor(llava_folder, torch.float64, params=params).double().train()


def chunks_of(model: DoubleForward, size: int, groups: StepSamples = PAIRS) -> list[TrainBatch]:
    table = samples(20)
    return [
        collate(
            {i: table[i] for group in chunk for i in group},
            chunk,
            model.backbone,
            all_tokens(4),
            LENGTHS,
        )
        for chunk in groups.chunks(size)
    ]


def gradients(model: DoubleForward) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in trained_parameters(model).items()}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_loss_is_that_of_a_row_read_for_itself(llava_folder: Path, attention: str) -> None:
    """Read each caption without padding through the whole model, one hidden token after another."""
    model = build(llava_folder, attention)
    (chunk,) = chunks_of(model, 100)
    torch.manual_seed(0)
    masked = hide_tokens(chunk, 0.5)
    assert 0 < masked.is_hidden.sum() < chunk.captions.mask.sum()
    found = alignment_loss_sum(model, chunk, masked)

    backbone, total = model.backbone, torch.zeros((), dtype=torch.float64)
    images = backbone.encode_images(chunk.pictures).embeddings
    table = backbone.vlm.get_input_embeddings().weight
    for row, picture in enumerate(chunk.caption_pictures.tolist()):
        length = int(chunk.captions.mask[row].sum())
        words = table[chunk.captions.ids[row, :length]].clone()
        words[masked.is_hidden[row, :length]] = table.mean(0)
        inputs = torch.cat([table[model.bos_ids], images[picture], words])[None]
        num_tokens = inputs.shape[1]
        square = torch.ones(1, 1, num_tokens, num_tokens, dtype=torch.bool)
        with model.adapters.use(COMPRESSION):
            states = backbone.language_model(
                inputs_embeds=inputs,
                attention_mask=square if attention == "bidirectional" else square.tril(),
            ).last_hidden_state
        logits = backbone.lm_head(states)[0, num_tokens - length - 1 : -1]
        place = masked.is_hidden[row, :length]
        total += F.cross_entropy(
            logits[place], chunk.captions.ids[row, :length][place], reduction="sum"
        )
    torch.testing.assert_close(found, total, rtol=1e-6, atol=0)


def test_only_the_compression_adapter_learns(llava_folder: Path) -> None:
    model = build(llava_folder)
    backward_alignment(model, chunks_of(model, 100), ALL)
    found = gradients(model)
    assert found
    assert all(COMPRESSION in name.split(".") for name in found)
    before = {
        name: parameter.detach().clone() for name, parameter in trained_parameters(model).items()
    }
    optimizer = build_optimizer(trained_parameters(model), OPTIMIZER)
    losses = backward_alignment(model, chunks_of(model, 100), ALL)
    update_weights(model, optimizer, losses, 1e-2, 1.0)
    moved = {
        name
        for name, parameter in trained_parameters(model).items()
        if not torch.equal(parameter, before[name])
    }
    assert moved == {name for name in found if found[name].any()}
    # no step is counted for what did not learn
    assert model.queries.weight not in optimizer.optimizers["adamw"].state


@pytest.mark.parametrize("size", [1, 4])
def test_chunks_do_not_change_the_gradient(llava_folder: Path, size: int) -> None:
    model = build(llava_folder)
    values = backward_alignment(model, chunks_of(model, 100), ALL)
    whole = gradients(model)
    assert len(chunks_of(model, size)) > 1
    torch.testing.assert_close(backward_alignment(model, chunks_of(model, size), ALL), values)
    torch.testing.assert_close(gradients(model), whole, rtol=1e-8, atol=1e-14)


def worker(rank: int, folder: Path, llava_folder: Path) -> None:
    model = build(llava_folder)
    backward_alignment(model, chunks_of(model, 2, PAIRS.shard(rank, 2)), ALL)
    torch.save(gradients(model), folder / f"{rank}.pt")


def test_two_workers_give_the_gradient_of_one(llava_folder: Path, tmp_path: Path) -> None:
    in_processes(2, worker, tmp_path, llava_folder)
    model = build(llava_folder)
    backward_alignment(model, chunks_of(model, 100), ALL)
    for rank in range(2):
        torch.testing.assert_close(
            torch.load(tmp_path / f"{rank}.pt"), gradients(model), rtol=1e-8, atol=1e-14
        )


def test_a_hidden_word_is_not_read(llava_folder: Path) -> None:
    model = build(llava_folder)
    images = text_segment(torch.randn(1, 9, model.backbone.dim, dtype=torch.float64))
    mask, is_hidden = torch.ones(1, 3, dtype=torch.long), torch.tensor([[False, True, False]])
    one, other = (
        model.masked_hidden(images, torch.tensor([[7, word, 9]]), mask, is_hidden)
        for word in (8, 50)
    )
    assert torch.equal(one, other)
    changed = model.masked_hidden(images, torch.tensor([[7, 8, 50]]), mask, is_hidden)
    assert not torch.allclose(one[:, 1], changed[:, 1])  # read from the right
