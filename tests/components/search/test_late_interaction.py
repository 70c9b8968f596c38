"""The order by MaxSim against its definition, token by token."""

import numpy as np
import pytest

from components.search.late_interaction import rerank


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def test_the_order_is_that_of_the_means_of_the_largest_cosines() -> None:
    rng = np.random.default_rng(0)
    query, pictures = rng.normal(size=(3, 8)), rng.normal(size=(6, 4, 8))
    wanted = []
    for picture in pictures:
        of_query = [max(cosine(token, other) for other in picture) for token in query]
        of_picture = [max(cosine(token, other) for other in query) for token in picture]
        wanted.append(np.mean(of_query + of_picture))
    best = np.argsort(wanted)[::-1][:2]
    hits = rerank(list("abcdef"), pictures, query, 2)
    assert [hit.image_id for hit in hits] == ["abcdef"[row] for row in best]
    assert [hit.score for hit in hits] == pytest.approx([wanted[row] for row in best])


def test_a_picture_of_the_query_itself_scores_one() -> None:
    tokens = np.random.default_rng(1).normal(size=(4, 8))
    (hit,) = rerank(["itself"], tokens[None, ::-1].copy(), 5 * tokens, 1)
    assert hit.score == pytest.approx(1)


def test_a_token_without_direction_is_like_nothing_and_ties_are_ordered_by_id() -> None:
    pictures, query = np.zeros((3, 2, 4)), np.ones((2, 4))
    hits = rerank(["c", "a", "b"], pictures, query, 2)
    assert [(hit.image_id, hit.score) for hit in hits] == [("a", 0), ("b", 0)]
    assert rerank([], np.empty((0, 2, 4)), query, 2) == []
