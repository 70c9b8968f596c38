"""The step: the gradient of two workers is that of one, through both losses and adapters."""

from pathlib import Path

import numpy as np
import pytest
import torch

from components.methods.fwd2bot import DoubleForward
from components.training.budgets import all_tokens
from components.training.collate import TrainBatch, collate
from components.training.forward import LossParams, step_losses
from components.training.optimizer import Optimizer, build_optimizer, trained_parameters
from components.training.phrases import with_phrases
from components.training.sampler import GroupedSampler, StepSamples
from components.training.step import backward_step, update_weights
from tests.components.model.tiny import prepared
from tests.components.training.world import LENGTHS, OPTIMIZER, build_model, in_processes, samples

BOTH = LossParams(autoregressive_weight=1.0, contrastive_weight=0.5, max_similarity_weight=0.0)
ALL = BOTH.model_copy(update={"max_similarity_weight": 0.3})


# what is read besides captions: further texts, some true of other pictures too, and wrong ones
TEXTS = LENGTHS.model_copy(
    update={"phrases_per_caption": 2, "hard_negatives": (("red", "green", "blue", "yellow"),)}
)
PLAUSIBLE = {phrase for sample in samples(40).values() for phrase in sample.known_phrases}


def batch_of(model: DoubleForward, rank: int, world_size: int, contrastive: int = 8) -> TrainBatch:
    table = {
        index: with_phrases(sample, TEXTS, PLAUSIBLE, np.random.default_rng(index))
        for index, sample in samples(40).items()
    }
    conversation = [bool(sample.conversation) for sample in table.values()]
    caption = [sample.caption is not None for sample in table.values()]
    groups = (
        GroupedSampler(
            conversation, caption, [1] * len(caption), 8, contrastive, window_steps=1, seed=0
        )
        .samples(1)
        .shard(rank, world_size)
    )
    mine = {i: table[i] for i in dict.fromkeys(groups.autoregressive + groups.contrastive)}
    return collate(mine, groups, model.backbone, all_tokens(model.num_summary_tokens), TEXTS)


def one_step(model: DoubleForward, optimizer: Optimizer, batch: TrainBatch) -> dict[str, float]:
    return update_weights(model, optimizer, backward_step(model, [batch], BOTH), 1e-2, 1.0)


def gradients_worker(
    rank: int, folder: Path, llava_folder: Path, dtype: torch.dtype, losses: LossParams
) -> None:
    model = build_model(llava_folder).to(dtype)
    values = backward_step(model, [batch_of(model, rank, 2)], losses)
    gradients = {name: parameter.grad for name, parameter in trained_parameters(model).items()}
    torch.save((values, gradients), folder / f"{rank}.pt")


@pytest.mark.parametrize("losses", [BOTH, ALL])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-9)])
def test_two_workers_give_the_gradient_of_one(
    llava_folder: Path, tmp_path: Path, dtype: torch.dtype, tolerance: float, losses: LossParams
) -> None:
    in_processes(2, gradients_worker, tmp_path, llava_folder, dtype, losses)
    model = build_model(llava_folder).to(dtype)
    values = backward_step(model, [batch_of(model, 0, 1)], losses)
    whole = torch.cat(
        [parameter.grad.flatten() for parameter in trained_parameters(model).values()]
    )
    for rank in range(2):
        found_values, found = torch.load(tmp_path / f"{rank}.pt")
        for name, value in values.items():
            assert float(found_values[name]) == pytest.approx(float(value), rel=tolerance)
        difference = torch.cat([gradient.flatten() for gradient in found.values()]) - whole
        assert difference.norm() / whole.norm() < tolerance


def test_autoregressive_loss_is_the_mean_over_all_answer_tokens(model: DoubleForward) -> None:
    batch = batch_of(model, 0, 1)
    with torch.no_grad():
        losses = step_losses(model, batch, BOTH)
        summary_tokens = model.compress_images(model.backbone.encode_images(batch.pictures))
        hidden = model.generation_hidden(
            summary_tokens[batch.conversation_pictures],
            batch.conversation_ids,
            batch.conversation_mask,
        )
        logits = model.backbone.lm_head(hidden)
    predicted = logits.take_along_dim(batch.predicting[..., None], dim=1)
    expected = torch.nn.functional.cross_entropy(predicted.flatten(0, 1), batch.targets.flatten())
    torch.testing.assert_close(losses.autoregressive, expected)


def test_a_sample_with_both_texts_is_compressed_once(model: DoubleForward) -> None:
    batch = batch_of(model, 0, 1)
    shared = set(batch.conversation_pictures.tolist()) & set(batch.caption_pictures.tolist())
    assert shared
    assert len(batch.pictures) == len(batch.conversation_pictures) + len(
        batch.caption_pictures
    ) - len(shared)


def test_a_third_loss_is_added_and_logged_only_if_wanted(model: DoubleForward) -> None:
    batch = batch_of(model, 0, 1)
    two, three = (backward_step(model, [batch], losses) for losses in (BOTH, ALL))
    assert list(two) == ["loss", "autoregressive_loss", "contrastive_loss"]
    assert list(three) == [*two, "max_similarity_loss"]
    assert three["max_similarity_loss"] > 0
    torch.testing.assert_close(three["loss"], two["loss"] + 0.3 * three["max_similarity_loss"])
    for name in ("autoregressive_loss", "contrastive_loss"):
        assert torch.equal(two[name], three[name])


@pytest.mark.parametrize(("autoregressive", "contrastive"), [(1.0, 0.0), (0.0, 1.0)])
def test_a_loss_of_weight_0_leaves_its_own_parts_alone(
    model: DoubleForward, autoregressive: float, contrastive: float
) -> None:
    weights = LossParams(
        autoregressive_weight=autoregressive,
        contrastive_weight=contrastive,
        max_similarity_weight=0.0,
    )
    backward_step(model, [batch_of(model, 0, 1)], weights)
    norms = {
        name: float(parameter.grad.norm()) for name, parameter in trained_parameters(model).items()
    }
    assert norms["queries.weight"] > 0
    assert all(
        (norm > 0) == bool(autoregressive)
        for name, norm in norms.items()
        if "generation" in name.split(".")
    )
    assert (norms["log_logit_scale"] > 0) == bool(contrastive)


def test_training_lowers_the_loss(model: DoubleForward) -> None:
    optimizer = build_optimizer(trained_parameters(model), OPTIMIZER)
    batch = batch_of(model, 0, 1)
    losses = [one_step(model, optimizer, batch)["loss"] for _ in range(15)]
    assert losses[-1] < 0.95 * losses[0]


def test_a_step_without_a_finite_gradient_changes_nothing(model: DoubleForward) -> None:
    optimizer = build_optimizer(trained_parameters(model), OPTIMIZER)
    batch = batch_of(model, 0, 1)
    before = {
        name: parameter.detach().clone() for name, parameter in trained_parameters(model).items()
    }
    damaged = batch._replace(pictures=prepared(batch.pictures.tensors["pixel_values"] * torch.nan))
    assert one_step(model, optimizer, damaged)["is_skipped"] == 1
    assert all(
        torch.equal(parameter, before[name])
        for name, parameter in trained_parameters(model).items()
    )
    metrics = one_step(model, optimizer, batch)
    assert metrics["is_skipped"] == 0
    assert not torch.equal(model.queries.weight, before["queries.weight"])


def test_text_only_groups_need_no_picture(model: DoubleForward) -> None:
    table = {4: samples(5)[4]}
    batch = collate(
        table, StepSamples((4,), ()), model.backbone, all_tokens(model.num_summary_tokens), LENGTHS
    )
    losses = step_losses(model, batch, BOTH)
    assert losses.autoregressive > 0
    assert losses.contrastive == 0


def test_the_logit_scale_is_kept_at_its_maximum(model: DoubleForward) -> None:
    optimizer = build_optimizer(trained_parameters(model), OPTIMIZER)
    with torch.no_grad():
        model.log_logit_scale.fill_(10.0)
    metrics = one_step(model, optimizer, batch_of(model, 0, 1))
    assert metrics["logit_scale"] == pytest.approx(model.params.max_logit_scale)
