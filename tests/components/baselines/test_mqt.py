import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from components.baselines.mqt import (
    MatryoshkaQueried,
    MatryoshkaQueries,
    MatryoshkaQueriesParams,
    grid_positions,
    resized,
)
from components.methods.blocks.vision_tower import Reading, TowerShape
from components.methods.checkpoint import load_compressor, save_compressor
from components.training.budgets import Budgets
from tests.components.methods.building import built, conversations, without_gradient

SHAPE = TowerShape(side=3, channels=8, dim=7)
SETTINGS = MatryoshkaQueriesParams(num_queries=4, num_heads=2, token_scale=1.0)


def reducer(num_tokens: int) -> MatryoshkaQueries:
    torch.manual_seed(0)
    return MatryoshkaQueries(SHAPE, num_tokens, SETTINGS, torch.nn.Identity())


def normed(vector: Tensor) -> Tensor:
    return (vector - vector.mean()) / (vector.var(unbiased=False) + 1e-5).sqrt()


@torch.no_grad()
def test_tokens_are_those_of_a_loop_over_pictures_queries_and_heads() -> None:
    module, patches = reducer(3), torch.randn(2, 9, 8)
    query_weight, key_weight, value_weight = module.attention.in_proj_weight.split(8)
    module.attention.in_proj_bias.normal_()
    query_bias, key_bias, value_bias = module.attention.in_proj_bias.split(8)
    found = module(Reading((patches,), None, None))
    for picture in range(2):
        for number in range(3):
            query = (
                query_weight @ normed(module.queries[number] + module.query_positions[number])
                + query_bias
            )
            read = []
            for head in (slice(0, 4), slice(4, 8)):
                keys = [
                    (key_weight @ normed(place) + key_bias)[head] for place in module.key_positions
                ]
                attended = torch.stack([query[head] @ key / math.sqrt(4) for key in keys]).softmax(
                    0
                )
                values = [
                    (value_weight @ normed(patch) + value_bias)[head] for patch in patches[picture]
                ]
                read.append(
                    sum(weight * value for weight, value in zip(attended, values, strict=True))
                )
            expected = (module.attention.out_proj(torch.cat(read))) @ module.projection
            torch.testing.assert_close(found[picture, number], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_is_attended_to_does_not_depend_on_the_picture() -> None:
    """Weights over places add up to one: equal patches give the same token for every query."""
    module, patch = reducer(4), torch.randn(1, 1, 8)
    found = module(Reading((patch.expand(1, 9, 8),), None, None))[0]
    torch.testing.assert_close(found, found[:1].expand(4, 7))


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_first_tokens_are_the_same_however_many_follow(count: int) -> None:
    reading = Reading((torch.randn(2, 9, 8),), None, None)
    torch.testing.assert_close(reducer(count)(reading), reducer(4)(reading)[:, :count])


@torch.no_grad()
def test_a_trained_model_keeps_the_first_tokens(
    llava_folder: Path, pictures: list[Image.Image], tmp_path: Path
) -> None:
    model = built(llava_folder, "mqt")
    whole = model.compress_pictures(model.backbone.prepare(pictures))
    save_compressor(model, tmp_path, {})
    fewer = load_compressor(
        tmp_path, str(llava_folder), torch.device("cpu"), torch.float32, num_summary_tokens=3
    )
    assert fewer.num_placeholders == 3
    torch.testing.assert_close(
        fewer.compress_pictures(model.backbone.prepare(pictures)), whole[:, :3]
    )
    with pytest.raises(ValueError, match="5 summary tokens of a model with 4 queries"):
        fewer.keep_first(5)


@torch.no_grad()
def test_in_training_conversations_read_prefixes_of_all_queries(
    llava_folder: Path, pictures: list[Image.Image]
) -> None:
    model = built(llava_folder, "mqt", count=1, num_queries=9)
    assert isinstance(model, MatryoshkaQueried)
    assert model.num_placeholders == 1
    assert model.budgets(()) == (1, 2, 4, 6, 8, 9)
    whole = model.compress_for_training(model.backbone.prepare(pictures[:2]))
    assert whole.shape[1] == 9
    torch.testing.assert_close(
        model.cut(whole, torch.tensor([2, 9])), torch.cat([whole[0, :2], whole[1]])
    )
    batch = conversations(model, (0, 2, 5, 7), Budgets(model.budgets(()), seed=0, step=1))
    read = (batch.conversation_ids == model.backbone.image_token_id).sum(1)
    assert read.tolist() == batch.conversation_budgets.tolist()
    assert len(set(read.tolist())) > 1


def test_all_that_is_trained_gets_a_gradient(llava_folder: Path) -> None:
    assert not without_gradient(built(llava_folder, "mqt"))


def test_positions_are_sines_and_cosines_of_row_and_column() -> None:
    grid = grid_positions(3, 8)
    for row in range(3):
        for column in range(3):
            along = [
                [f(at / 10000 ** (i / 2)) for f in (math.sin, math.cos) for i in (0, 1)]
                for at in (row, column)
            ]
            torch.testing.assert_close(grid[row, column], torch.tensor([*along[0], *along[1]]))


def test_keys_and_queries_of_equal_grids_have_the_same_positions() -> None:
    grid = grid_positions(5, 8)
    torch.testing.assert_close(resized(grid, 5), grid)
    assert resized(grid, 7).shape == (7, 7, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_queries": 5}, "5 is no square number"),
        ({"num_heads": 3}, "16 channels .* into 3 heads"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    llava_folder: Path, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        built(llava_folder, "mqt", **changes)
