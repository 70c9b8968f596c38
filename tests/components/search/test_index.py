"""Search against a naive argsort, and the queries that FAISS would answer with nonsense."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.search.index import EmbeddingIndex
from components.search.vectors import in_memory


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def random_index(rows: int, dim: int, seed: int) -> tuple[EmbeddingIndex, np.ndarray]:
    vectors = unit(np.random.default_rng(seed).normal(size=(rows, dim)))
    return EmbeddingIndex([f"p{row:03d}" for row in range(rows)], in_memory(vectors)), vectors


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 40), k=st.integers(1, 50), seed=st.integers(0, 10**6))
def test_search_equals_naive_argsort(rows: int, k: int, seed: int) -> None:
    index, vectors = random_index(rows, 8, seed)
    query = unit(np.random.default_rng(seed + 1).normal(size=8))
    hits = index.search(query, k)
    scores = vectors.astype(np.float64) @ query
    assert [hit.image_id for hit in hits] == [f"p{row:03d}" for row in np.argsort(-scores)[:k]]
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:k], atol=1e-6)


def test_search_ties_are_ordered_by_id_whatever_the_row_order() -> None:
    vectors = unit(np.repeat(np.eye(3)[[0, 1]], [6, 2], axis=0))
    ids = ["f", "b", "d", "a", "e", "c", "y", "x"]
    hits = EmbeddingIndex(ids, in_memory(vectors)).search(unit(np.array([1.0, 0, 0])), 4)
    assert [hit.image_id for hit in hits] == ["a", "b", "c", "d"]


def test_search_one_row_and_no_rows() -> None:
    index, vectors = random_index(1, 4, 0)
    assert [hit.image_id for hit in index.search(vectors[0], 5)] == ["p000"]
    assert EmbeddingIndex([], in_memory(np.empty((0, 4), np.float32))).search(vectors[0], 5) == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (np.full(4, np.nan, np.float32), "not finite"),
        (np.zeros(4, np.float32), "length 1"),
        (np.ones(5, np.float32), r"shape \(5,\).*4"),
    ],
)
def test_search_bad_query_is_an_error(query: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_index(3, 4, 0)[0].search(query, 1)


@pytest.mark.parametrize("k", [0, -1])
def test_search_k_below_one_is_an_error(k: int) -> None:
    index, vectors = random_index(3, 4, 0)
    with pytest.raises(ValueError, match="k is"):
        index.search(vectors[0], k)


def test_index_refuses_vectors_that_are_not_embeddings() -> None:
    with pytest.raises(ValueError, match="length 1"):
        in_memory(np.ones((1, 4), np.float32))
    with pytest.raises(ValueError, match="2 ids"):
        EmbeddingIndex(["a", "b"], in_memory(np.eye(4, dtype=np.float32)[:1]))
