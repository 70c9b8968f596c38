"""Exact search over parts against one naive product of matrices, of all rows or of some."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.search.vectors import Vectors, in_memory


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    k=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    share=st.floats(0, 1),
)
def test_nearest_holds_the_naive_k_best(sizes: list[int], k: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    # few directions: many ties
    whole = unit(rng.integers(-1, 2, (sum(sizes), 4)) + np.array([2, 0, 0, 0]))
    vectors = Vectors(np.split(whole, np.cumsum(sizes)[:-1]), 4)
    among = np.flatnonzero(rng.random(len(whole)) < share)
    queries = unit(rng.normal(size=(3, 4)))
    for rows, allowed in ((vectors.nearest(queries, k), np.arange(len(whole))), (None, among)):
        found = vectors.nearest(queries, k, among) if rows is None else rows
        for query, row in zip(queries, found, strict=True):
            scores = whole[allowed] @ query
            kth = np.sort(scores)[::-1][min(k, len(scores)) - 1] if len(scores) else 0
            assert set(allowed[scores >= kth]) <= set(row.tolist()) <= set(allowed.tolist())
            assert len(set(row.tolist())) == len(row)


def test_take_gives_rows_of_all_parts_in_the_order_asked_for() -> None:
    whole = unit(np.random.default_rng(0).normal(size=(7, 3)))
    vectors = Vectors([whole[:2], whole[2:2], whole[2:]], 3)
    rows = np.array([6, 0, 2, 1, 2])
    np.testing.assert_array_equal(vectors.take(rows), whole[rows])
    assert len(vectors) == 7


def test_vectors_that_are_no_embeddings_are_refused() -> None:
    with pytest.raises(ValueError, match="length 1"):
        in_memory(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="not finite"):
        in_memory(np.full((1, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="shape"):
        in_memory(np.ones(3, np.float32))
