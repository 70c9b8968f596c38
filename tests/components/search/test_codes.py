"""Candidates by one bit per number, against brute force.

Also at the width of a 7B, where FAISS's fast form fails.
"""

from pathlib import Path

import numpy as np
import pytest

from components.costs.corpus_plan import code_bytes
from components.search.codes import Codes, training_rows
from components.search.index import EmbeddingIndex
from components.search.vectors import in_memory


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def coded(vectors: np.ndarray, num_candidates: int) -> EmbeddingIndex:
    codes = Codes.empty(training_rows(in_memory(vectors)), num_candidates)
    codes.add(vectors)
    return EmbeddingIndex([f"{row:05d}" for row in range(len(vectors))], in_memory(vectors), codes)


@pytest.mark.parametrize("dim", [100, 4096])
def test_near_pictures_are_found_and_scored_exactly(dim: int) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, dim))
    vectors = unit(np.repeat(centres, 30, axis=0) + 0.7 * rng.normal(size=(600, dim)))
    queries = unit(centres + 0.7 * rng.normal(size=centres.shape))
    for number, hits in enumerate(coded(vectors, 60).search_batch(queries, 10)):
        scores = vectors.astype(np.float64) @ queries[number]
        wanted = np.argsort(-scores)[:10]
        found = [int(hit.image_id) for hit in hits]
        assert len(set(found) & set(wanted.tolist())) >= 9
        np.testing.assert_allclose([hit.score for hit in hits], scores[found], atol=1e-6)
        assert set(found) <= set(range(30 * number, 30 * number + 30))


def test_as_many_candidates_as_pictures_make_it_exact() -> None:
    vectors = unit(np.random.default_rng(1).normal(size=(300, 32)))
    queries = unit(np.random.default_rng(2).normal(size=(5, 32)))
    exact = EmbeddingIndex([f"{row:05d}" for row in range(300)], in_memory(vectors))
    assert coded(vectors, 300).search_batch(queries, 10) == exact.search_batch(queries, 10)
    assert len(coded(vectors, 2).search(queries[0], 10)) == 10  # never fewer than asked for


def test_large_channels_that_all_share_do_not_hide_the_rest() -> None:
    rng = np.random.default_rng(3)
    plain = rng.normal(size=(500, 64))
    vectors = unit(plain + np.eye(64)[5] * 30)
    queries = vectors[::50]
    found = [hits[0].image_id for hits in coded(vectors, 50).search_batch(queries, 1)]
    assert found == [f"{row:05d}" for row in range(0, 500, 50)]


@pytest.mark.parametrize("dim", [100, 128, 4096])
def test_codes_are_as_large_as_the_plan_says(tmp_path: Path, dim: int) -> None:
    sizes = []
    for rows in (100, 300):
        codes = Codes.empty(np.eye(dim, dtype=np.float32)[:2], 10)
        codes.add(unit(np.random.default_rng(0).normal(size=(rows, dim))))
        codes.write(tmp_path / "codes")
        sizes.append((tmp_path / "codes").stat().st_size)
    assert sizes[1] - sizes[0] == 200 * code_bytes(dim)


def test_rows_added_in_two_goes_give_the_same_bytes(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(4).normal(size=(40, 16)))
    for name, cuts in (("one", [40]), ("two", [13, 40])):
        codes, start = Codes.empty(vectors, 10), 0
        for end in cuts:
            codes.add(vectors[start:end])
            start = end
        codes.write(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    read = Codes.read(tmp_path / "one", 10)
    np.testing.assert_array_equal(read.find(vectors[:2], 3), codes.find(vectors[:2], 3))
