import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.baselines.tokenpacker import TokenPacker, TokenPackerParams, down_sampled
from components.methods.blocks.vision_tower import Reading, TowerShape

SHAPE = TowerShape(side=6, channels=8, dim=7)
SETTINGS = TokenPackerParams(layers=(-2, -4), num_heads=4)


def packer(num_tokens: int, seed: int = 0) -> TokenPacker:
    """One whose weights are large enough for attention that is not even."""
    torch.manual_seed(seed)
    reducer = TokenPacker(SHAPE, num_tokens, SETTINGS, nn.Linear(8, 7))
    with torch.no_grad():
        for parameter in reducer.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return reducer


def reading() -> Reading:
    return Reading(tuple(torch.randn(2, 36, 8) for _ in SETTINGS.layers), None, None)


def cell_of(num_tokens: int) -> Tensor:
    """The cell of each patch, (36,), worked out from its row and column."""
    per_side = round(num_tokens**0.5)
    places = [
        (row * per_side // 6, column * per_side // 6) for row in range(6) for column in range(6)
    ]
    return torch.tensor([row * per_side + column for row, column in places])


def test_counts_leave_more_than_one_patch_in_a_cell() -> None:
    assert TokenPacker.counts(SHAPE, SETTINGS) == [1, 4, 9]


@torch.no_grad()
@pytest.mark.parametrize("num_tokens", [1, 4, 9])
def test_tokens_are_those_of_attention_to_all_patches_under_a_mask(num_tokens: int) -> None:
    reducer, given = packer(num_tokens), reading()
    mask = cell_of(num_tokens) != torch.arange(num_tokens)[:, None]  # True: is not attended to
    patches = torch.cat(given.patches, dim=2)
    grid = given.patches[0].transpose(1, 2).unflatten(2, (6, 6))
    queries = (
        F.interpolate(grid, size=(round(num_tokens**0.5),) * 2, mode="bilinear")
        .flatten(2)
        .transpose(1, 2)
    )
    parts = reducer.read_cells
    packed, weights = parts.attention(
        reducer.query(queries), parts.key(patches), parts.value(patches), attn_mask=mask
    )
    assert weights.amax() > 1.5 * num_tokens / 36  # of which an even one would have 1
    torch.testing.assert_close(reducer(given), reducer.connect(packed))


@pytest.mark.parametrize("num_tokens", [1, 4, 9])
def test_a_token_depends_on_all_patches_of_its_own_cell_and_on_no_others(num_tokens: int) -> None:
    reducer, given = packer(num_tokens), reading()
    inputs = torch.stack(given.patches).requires_grad_()
    tokens = reducer(Reading(tuple(inputs), None, None))
    for index in range(num_tokens):
        gradient = torch.autograd.grad(tokens[:, index].square().sum(), inputs, retain_graph=True)[
            0
        ]
        for layer in gradient:
            depends = layer.abs().amax(dim=(0, 2)) > 0
            assert torch.equal(depends, cell_of(num_tokens) == index)


@torch.no_grad()
@pytest.mark.parametrize("num_tokens", [4, 9])
def test_a_query_is_the_middle_of_its_cell(num_tokens: int) -> None:
    patches = torch.randn(2, 36, 8)
    grid, cell = patches.unflatten(1, (6, 6)), 6 // round(num_tokens**0.5)
    # the middle rows and columns, the same one in an odd cell
    low, high = (cell - 1) // 2, cell // 2
    corners = [grid[:, row::cell, column::cell] for row in (low, high) for column in (low, high)]
    expected = torch.stack(corners).mean(0).flatten(1, 2)
    torch.testing.assert_close(down_sampled(patches, num_tokens), expected)


def test_weights_begin_as_the_papers() -> None:
    reducer = TokenPacker(
        SHAPE._replace(channels=64), 4, TokenPackerParams(layers=(-2,), num_heads=4), nn.Identity()
    )
    for name, parameter in reducer.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.ndim == 1:
            assert parameter.eq(1).all(), name
        elif "in_proj" not in name:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.1), name
