import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from components.baselines.stf import SpatialTokenFusion, SpatialTokenFusionParams, end_to_end
from components.methods.blocks.vision_tower import Reading, TowerShape

SHAPE = TowerShape(side=6, channels=5, dim=7)
SETTINGS = SpatialTokenFusionParams(
    layers=(-2, -4, -5),
    fusion_width=4,
    projector_width=3,
    initialization="kaiming",
    token_scale=1.0,
)


def reducer(num_tokens: int, **changes: object) -> SpatialTokenFusion:
    settings = SETTINGS.model_copy(update=changes)
    return SpatialTokenFusion(SHAPE, num_tokens, settings, nn.Linear(5, 7))


def reading(num_layers: int, dtype: torch.dtype = torch.float32) -> Reading:
    return Reading(tuple(torch.randn(2, 36, 5).to(dtype) for _ in range(num_layers)), None, None)


def test_counts_are_those_of_square_cells() -> None:
    assert SpatialTokenFusion.counts(SHAPE, SETTINGS) == [1, 4, 9, 36]


@torch.no_grad()
@pytest.mark.parametrize("num_tokens", [1, 4, 9, 36])
def test_a_linear_layer_behind_the_cells_is_a_convolution_with_stride(num_tokens: int) -> None:
    cell = round(math.sqrt(36 / num_tokens))
    patches, linear = torch.randn(2, 36, 5), nn.Linear(5 * cell**2, 11)
    grid = patches.transpose(1, 2).unflatten(2, (6, 6))
    convolved = F.conv2d(
        grid, linear.weight.unflatten(1, (5, cell, cell)), linear.bias, stride=cell
    )
    torch.testing.assert_close(
        linear(end_to_end(patches, num_tokens)), convolved.flatten(2).transpose(1, 2)
    )


@torch.no_grad()
@pytest.mark.parametrize("num_tokens", [4, 9])
def test_tokens_are_those_of_the_convolutions_of_the_paper(num_tokens: int) -> None:
    fusion, given = reducer(num_tokens), reading(3)
    cell = round(math.sqrt(36 / num_tokens))
    grid = torch.cat(given.patches, dim=2).transpose(1, 2).unflatten(2, (6, 6))
    first, _, second = fusion.fusion
    grid = F.conv2d(grid, first.weight[..., None, None], first.bias)
    grid = F.conv2d(F.gelu(grid), second.weight[..., None, None], second.bias)
    first, _, second = fusion.projector
    grid = F.conv2d(grid, first.weight.unflatten(1, (5, cell, cell)), first.bias, stride=cell)
    grid = F.conv2d(F.gelu(grid), second.weight[..., None, None], second.bias)
    torch.testing.assert_close(fusion(given), grid.flatten(2).transpose(1, 2))


@torch.no_grad()
def test_one_layer_and_cells_of_one_patch_are_two_mlps() -> None:
    fusion, given = reducer(36, layers=(-2,)), reading(1)
    expected = fusion.projector(fusion.fusion(given.patches[0]))
    torch.testing.assert_close(fusion(given), expected)


def test_at_the_papers_size_there_are_as_many_weights_as_the_papers() -> None:
    shape = TowerShape(side=24, channels=1024, dim=4096)
    settings = SETTINGS.model_copy(
        update={"layers": (-2, -4, -7, -10, -13, -16, -19, -22), "projector_width": 16}
    )
    with torch.device("meta"):
        fusion = SpatialTokenFusion(shape, 144, settings, nn.Identity())
    sizes = [
        sum(p.numel() for p in part.parameters()) for part in (fusion.fusion, fusion.projector)
    ]
    assert [round(size / 1e6, 1) for size in sizes] == [37.8, 134.2]  # millions


@pytest.mark.parametrize("how", ["kaiming", "xavier"])
def test_first_weights_fill_the_range_of_their_initialization(how: str) -> None:
    for part in (reducer(4, initialization=how).fusion, reducer(4, initialization=how).projector):
        for layer in (part[0], part[2]):
            fan_in, fan_out = layer.in_features, layer.out_features
            bound = {"kaiming": fan_in**-0.5, "xavier": (6 / (fan_in + fan_out)) ** 0.5}[how]
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert bool(layer.bias.any()) == (how == "kaiming")


@torch.no_grad()
def test_half_precision_of_the_tower_is_that_of_the_tokens() -> None:
    assert reducer(4)(reading(3, torch.bfloat16)).dtype == torch.bfloat16
