"""Conversations read prefixes of the summary tokens, pairs are told apart by each of them."""

from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from components.methods.fwd2bot import DoubleForward
from components.training.budgets import Budgets, all_tokens
from components.training.collate import TrainBatch, collate
from components.training.forward import LossParams, step_losses
from components.training.optimizer import trained_parameters
from components.training.sampler import StepSamples
from components.training.step import backward_step
from tests.components.losses.pairs import pair_loss
from tests.components.training.world import LENGTHS, build_model, samples

SIZES = (1, 2, 4)
BOTH = LossParams(autoregressive_weight=1.0, contrastive_weight=0.5, max_similarity_weight=0.0)
ALL = LossParams(autoregressive_weight=1.0, contrastive_weight=0.5, max_similarity_weight=0.3)
GROUPS = StepSamples(
    autoregressive=(0, 2, 4, 5, 6, 7, 1, 9), contrastive=(0, 5, 3, 8, 6, 1, 13, 18)
)


@pytest.fixture
def double(llava_folder: Path) -> DoubleForward:
    return build_model(llava_folder).double()


def batch_of(
    model: DoubleForward, groups: StepSamples, budgets: Budgets, max_row_tokens: int | None
) -> TrainBatch:
    table = samples(40)
    mine = {i: table[i] for group in groups for i in group}
    texts = LENGTHS.model_copy(update={"max_row_tokens": max_row_tokens})
    return collate(mine, groups, model.backbone, budgets, texts)


def test_conversations_draw_budgets_evenly_by_the_seed() -> None:
    drawn = [Budgets((1, 2, 4, 8), 0, step).of_conversation(step % 7) for step in range(2000)]
    assert drawn == [
        Budgets((1, 2, 4, 8), 0, step).of_conversation(step % 7) for step in range(2000)
    ]
    assert drawn != [
        Budgets((1, 2, 4, 8), 1, step).of_conversation(step % 7) for step in range(2000)
    ]
    assert all(abs(count - 500) < 100 for count in Counter(drawn).values())
    assert len({Budgets((1, 2, 4, 8), 0, 0).of_conversation(index) for index in range(50)}) == 4


def test_without_nesting_every_conversation_reads_all() -> None:
    assert {all_tokens(4).of_conversation(index) for index in range(20)} == {4}


@pytest.mark.parametrize("max_row_tokens", [None, 80])
def test_autoregressive_loss_is_that_of_models_with_fewer_queries(
    double: DoubleForward, llava_folder: Path, max_row_tokens: int | None
) -> None:
    """Read each conversation alone, with no more queries than it reads, weighed by its tokens."""
    budgets = Budgets(SIZES, 0, 3)
    batch = batch_of(double, GROUPS, budgets, max_row_tokens)
    assert len(set(batch.conversation_budgets.tolist())) == 3
    total = count = 0.0
    with torch.no_grad():
        found = step_losses(double, batch, ALL).autoregressive
        for index in GROUPS.autoregressive:
            model = build_model(llava_folder).double()
            model.keep_first(budgets.of_conversation(index))
            alone = batch_of(
                model, StepSamples((index,), ()), all_tokens(model.num_summary_tokens), None
            )
            num_tokens = int((alone.targets >= 0).sum())
            total += float(step_losses(model, alone, ALL).autoregressive) * num_tokens
            count += num_tokens
    assert float(found) == pytest.approx(total / count, rel=1e-7)


def test_contrastive_loss_is_the_mean_over_the_budgets(double: DoubleForward) -> None:
    batch = batch_of(double, GROUPS, Budgets(SIZES, 0, 3), None)
    with torch.no_grad():
        found = step_losses(double, batch, ALL).contrastive
        images = double.compress_pictures(batch.pictures)[batch.caption_pictures]
        texts = double.compress_texts(batch.captions.ids, batch.captions.mask)
        vectors = [
            [F.normalize(side[:, :k].mean(1), dim=-1) for side in (images, texts)] for k in SIZES
        ]
        losses = [pair_loss(*pair, double.logit_scale) for pair in vectors]
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_maxsim_loss_is_the_mean_over_the_budgets_of_both_sides(double: DoubleForward) -> None:
    """A model with fewer queries makes the tokens of either side; pictures are told from texts."""
    batch = batch_of(double, GROUPS, Budgets(SIZES, 0, 3), None)
    losses = []
    with torch.no_grad():
        found = step_losses(double, batch, ALL).max_similarity
        for size in reversed(SIZES):
            double.keep_first(size)
            images = double.compress_pictures(batch.pictures)[batch.caption_pictures]
            texts = double.compress_texts(batch.captions.ids, batch.captions.mask)
            cosines = F.cosine_similarity(texts[:, None, :, None], images[None, :, None], dim=-1)
            logits = double.logit_scale * cosines.max(-1).values.mean(-1)
            targets = torch.arange(len(logits))
            ways = [F.cross_entropy(side, targets) for side in (logits, logits.T)]
            losses.append(sum(ways) / 2)
    torch.testing.assert_close(found, torch.stack(losses).mean())


@pytest.mark.parametrize("losses", [BOTH, ALL])
@pytest.mark.parametrize("size", [1, 3])
def test_chunks_do_not_change_the_gradient_of_nested_budgets(
    double: DoubleForward, size: int, losses: LossParams
) -> None:
    budgets = Budgets(SIZES, 0, 3)

    def gradient(size: int) -> torch.Tensor:
        backward_step(
            double,
            [batch_of(double, chunk, budgets, None) for chunk in GROUPS.chunks(size)],
            losses,
        )
        return torch.cat(
            [parameter.grad.flatten() for parameter in trained_parameters(double).values()]
        )

    whole = gradient(100)
    assert (gradient(size) - whole).norm() / whole.norm() < 1e-8
