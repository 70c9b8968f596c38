from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from torch import nn

from components.baselines.m3 import MatryoshkaPooled, MatryoshkaPooling, MatryoshkaPoolingParams
from components.methods.blocks.vision_tower import Reading, TowerShape
from components.methods.method import Method
from components.training.collate import TrainBatch
from components.training.forward import step_losses
from tests.components.methods.building import GENERATIVE, built, conversations, without_gradient

SHAPE = TowerShape(side=6, channels=5, dim=7)
SCALES = MatryoshkaPoolingParams(scales=(1, 4, 9, 36))
ROWS = (0, 2, 5)  # conversations about a picture each


class Given(NamedTuple):
    """A scale for each conversation, in place of drawn ones."""

    sizes: tuple[int, ...]
    scale_of: dict[int, int]

    def of_conversation(self, index: int) -> int:
        return self.scale_of[index]


def with_scales(model: Method, scales: tuple[int, ...]) -> TrainBatch:
    return conversations(
        model, ROWS, Given(model.budgets(()), dict(zip(ROWS, scales, strict=True)))
    )


def test_counts_are_the_scales() -> None:
    assert list(MatryoshkaPooling.counts(SHAPE, SCALES)) == [1, 4, 9, 36]


@pytest.mark.parametrize("scales", [(1, 5), (4, 9), (1, 100)])
def test_scales_that_do_not_nest_are_refused(scales: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"m3\.yaml: scales.* of 6 × 6 patches"):
        MatryoshkaPooling.counts(SHAPE, MatryoshkaPoolingParams(scales=scales))


@torch.no_grad()
@pytest.mark.parametrize("scale", SCALES.scales)
def test_every_scale_is_pytorchs_pooling(scale: int) -> None:
    connect, patches = nn.Linear(5, 7), torch.randn(2, 36, 5)
    side = 6 // round(scale**0.5)
    grid = connect(patches).transpose(1, 2).unflatten(2, (6, 6))
    expected = nn.functional.avg_pool2d(grid, side).flatten(2).transpose(1, 2)
    found = MatryoshkaPooling(SHAPE, scale, SCALES, connect)(Reading((patches,), None, None))
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_in_training_each_row_is_pooled_to_its_own_scale(
    llava_folder: Path, pictures: list[Image.Image]
) -> None:
    model = built(llava_folder, "m3")
    finest = model.compress_for_training(model.backbone.prepare(pictures[:3]))
    found = model.cut(finest, torch.tensor([9, 1, 9]))
    expected = torch.cat([finest[0], finest[1].mean(0, keepdim=True), finest[2]])
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_the_loss_of_drawn_scales_is_on_average_the_mean_of_the_losses_of_all_scales(
    llava_folder: Path,
) -> None:
    """Over all draws; the loss of one scale is that of average pooling with so many tokens."""
    model = built(llava_folder, "m3")
    assert model.budgets(()) == (1, 9)
    drawn = [
        step_losses(model, with_scales(model, draw), GENERATIVE).autoregressive
        for draw in product((1, 9), repeat=3)
    ]
    by_scale = []
    for scale in (1, 9):
        plain = built(llava_folder, "average_pooling", count=scale)
        by_scale.append(step_losses(plain, conversations(plain, ROWS), GENERATIVE).autoregressive)
    assert abs(by_scale[0] - by_scale[1]) > 1e-4
    torch.testing.assert_close(
        torch.stack(drawn).mean(), torch.stack(by_scale).mean(), rtol=1e-5, atol=0
    )


def test_all_that_is_trained_gets_a_gradient(llava_folder: Path) -> None:
    assert not without_gradient(built(llava_folder, "m3"))


@torch.no_grad()
def test_a_trained_model_makes_any_of_its_scales_and_no_other(
    llava_folder: Path, pictures: list[Image.Image]
) -> None:
    model = built(llava_folder, "m3", count=9)
    assert isinstance(model, MatryoshkaPooled)
    finest = model.compress_pictures(model.backbone.prepare(pictures))
    model.keep_first(1)
    assert model.num_placeholders == 1
    found = model.compress_pictures(model.backbone.prepare(pictures))
    torch.testing.assert_close(found, finest.mean(1, keepdim=True))
    with pytest.raises(ValueError, match=r"4 tokens are no scale .* \(1, 9\)"):
        model.keep_first(4)
