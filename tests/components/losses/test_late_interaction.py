"""MaxSim against its definition, token by token."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.losses.late_interaction import directions, maxsim


def cosine(left: Tensor, right: Tensor) -> float:
    lengths = float(left.norm() * right.norm())
    return float(left @ right) / lengths if lengths else 0.0


def naive(queries: Tensor, gallery: Tensor) -> list[list[float]]:
    rows = []
    for query in queries:
        row = []
        for entry in gallery:
            row.append(sum(max(cosine(token, other) for other in entry) for token in query))
        rows.append(row)
    return rows


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**16),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_maxsim_is_the_sum_of_the_largest_cosines(
    seed: int, num_queries: int, query_tokens: int, num_entries: int, entry_tokens: int
) -> None:
    """Few values, so that there are ties and tokens of zeros."""
    rng = np.random.default_rng(seed)
    shapes = ((num_queries, query_tokens, 3), (num_entries, entry_tokens, 3))
    queries, gallery = (torch.from_numpy(rng.integers(-1, 2, shape)).double() for shape in shapes)
    found = maxsim(directions(queries), directions(gallery))
    assert found.tolist() == [pytest.approx(row, abs=1e-12) for row in naive(queries, gallery)]

    # lengths and the order of tokens do not matter
    moved = maxsim(directions(3 * queries.flip(1)), directions(0.5 * gallery.flip(1)))
    torch.testing.assert_close(moved, found)


def test_one_token_each_gives_the_cosine() -> None:
    rng = np.random.default_rng(0)
    queries, gallery = (torch.from_numpy(rng.normal(size=(size, 8))) for size in (3, 5))
    expected = torch.nn.functional.cosine_similarity(queries[:, None], gallery[None], dim=-1)
    found = maxsim(directions(queries[:, None]), directions(gallery[:, None]))
    torch.testing.assert_close(found, expected)


def test_of_a_tie_one_token_is_taken_and_gradients_are_those_of_the_largest() -> None:
    """By hand: the first token of the query is like the second of the entry, and so on."""
    query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], requires_grad=True)
    gallery = torch.tensor([[[0.0, 1.0], [0.6, 0.8]]], requires_grad=True)
    found = maxsim(query, gallery)
    found.sum().backward()
    assert found.item() == pytest.approx(0.6 + 1.0)
    assert query.grad is not None
    assert gallery.grad is not None
    torch.testing.assert_close(query.grad, torch.tensor([[[0.6, 0.8], [0.0, 1.0]]]))
    torch.testing.assert_close(gallery.grad, torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]))


def test_directions_keep_single_precision_at_least() -> None:
    tokens = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0]])
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        found = directions(tokens.to(dtype))
        assert found.dtype == torch.promote_types(dtype, torch.float32)
        torch.testing.assert_close(found.float(), expected)
