"""PruMerge and PruMerge+ against loops over patches."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.baselines.prumerge import PruMerge, PruMergeParams
from components.baselines.prumerge_plus import PruMergePlus, PruMergePlusParams, regular_grid
from components.methods.blocks.patch_merging import PatchMerging
from components.methods.blocks.vision_tower import Reading, TowerShape

SHAPE = TowerShape(side=6, channels=5, dim=7)
SETTINGS = PruMergeParams(num_neighbours=4)
PLUS = PruMergePlusParams(num_neighbours=4, grid_share=0.5)
CONNECT = nn.Linear(5, 7)
PATHS = [PruMerge(SHAPE, 9, SETTINGS, CONNECT), PruMergePlus(SHAPE, 9, PLUS, CONNECT)]


def reading(pictures: int = 3) -> Reading:
    attention = torch.randn(pictures, 37).softmax(1)[:, 1:]
    return Reading((torch.randn(pictures, 36, 5),), attention, torch.randn(pictures, 36, 5))


def naive(
    patches: Tensor, attention: Tensor, keys: Tensor, last: set[int], num_kept: int, neighbours: int
) -> Tensor:
    """Merge one picture, patch by patch; `last` are kept behind the best of the others."""
    by_attention = sorted(range(len(patches)), key=lambda i: -float(attention[i]))
    kept = [i for i in by_attention if i not in last][: num_kept - len(last)] + sorted(last)
    tokens = []
    for i in kept:
        others = [j for j in range(len(patches)) if j != i]
        others.sort(key=lambda j: -float(F.cosine_similarity(keys[i], keys[j], dim=0)))
        token = patches[i].clone()
        for j in others[:neighbours]:
            token += attention[j] * patches[j]
        tokens.append(token)
    rest = torch.zeros(patches.shape[1])
    for j in set(range(len(patches))) - set(kept):
        rest += attention[j] * patches[j]
    return torch.stack([*tokens, rest])


@torch.no_grad()
@pytest.mark.parametrize("num_tokens", [2, 9, 36])
def test_tokens_are_those_of_loops_over_patches(num_tokens: int) -> None:
    given = reading()
    found = PruMerge(SHAPE, num_tokens, SETTINGS, CONNECT)(given)
    parts = zip(given.patches[0], given.attention, given.keys, strict=True)
    expected = torch.stack([naive(*part, set(), num_tokens - 1, 4) for part in parts])
    assert found.shape == (3, num_tokens, 7)
    torch.testing.assert_close(found, CONNECT(expected))


@torch.no_grad()
def test_tokens_with_a_grid_are_those_of_loops_over_patches() -> None:
    given = reading()
    found = PruMergePlus(SHAPE, 9, PLUS, CONNECT)(given)
    parts = zip(given.patches[0], given.attention, given.keys, strict=True)
    # every ninth of 36 from the fifth
    expected = torch.stack([naive(*part, {4, 13, 22, 31}, 8, 4) for part in parts])
    torch.testing.assert_close(found, CONNECT(expected))


def test_at_the_papers_size_the_grid_is_the_papers() -> None:
    assert regular_grid(576, 72).tolist() == list(range(4, 576, 8))


@pytest.mark.parametrize("count", [0, 1, 5, 35, 36])
def test_a_grid_of_any_size_has_no_position_twice(count: int) -> None:
    positions = regular_grid(36, count).tolist()
    assert len(set(positions)) == count
    assert all(0 <= position < 36 for position in positions)


@torch.no_grad()
def test_a_share_of_0_is_the_plain_one_and_a_share_of_1_does_not_look_where_the_attention_is() -> (
    None
):
    given = reading()
    plain = PruMerge(SHAPE, 9, SETTINGS, CONNECT)(given)
    without = PruMergePlus(SHAPE, 9, PLUS.model_copy(update={"grid_share": 0.0}), CONNECT)
    assert torch.equal(without(given), plain)
    only = PruMergePlus(SHAPE, 9, PLUS.model_copy(update={"grid_share": 1.0}), CONNECT)
    assert only.kept(given.attention, 8).tolist() == [regular_grid(36, 8).tolist()] * len(
        given.attention
    )


@torch.no_grad()
@pytest.mark.parametrize("reducer", PATHS, ids=["prumerge", "prumerge_plus"])
def test_equal_attention_everywhere_still_gives_the_number_of_tokens(reducer: PatchMerging) -> None:
    given = reading()._replace(attention=torch.full((3, 36), 1 / 37))
    alone = reducer(Reading((given.patches[0][:1],), given.attention[:1], given.keys[:1]))
    assert reducer(given).shape == (3, 9, 7)
    torch.testing.assert_close(reducer(given)[:1], alone)


@pytest.mark.parametrize("reducer", PATHS, ids=["prumerge", "prumerge_plus"])
def test_no_weights_of_its_own(reducer: PatchMerging) -> None:
    assert not {name for name in reducer.state_dict() if not name.startswith("connect.")}


def test_counts_leave_at_least_one_patch_to_keep_and_one_to_prune() -> None:
    assert list(PruMerge.counts(SHAPE, SETTINGS)) == list(range(2, 37))


def test_more_neighbours_than_there_are_patches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_neighbours 36: .* 35 others .* fewer"):
        PruMerge(SHAPE, 9, PruMergeParams(num_neighbours=36), CONNECT)
