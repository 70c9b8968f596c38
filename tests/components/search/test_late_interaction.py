"""MaxSim against its definition, token by token."""

import numpy as np

from components.search.late_interaction import maxsim, rerank


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def test_maxsim_is_the_sum_of_the_largest_cosines() -> None:
    rng = np.random.default_rng(0)
    query, pictures = rng.normal(size=(3, 8)), rng.normal(size=(6, 4, 8))
    wanted = [
        sum(max(cosine(token, other) for other in picture) for token in query)
        for picture in pictures
    ]
    np.testing.assert_allclose(maxsim(query, pictures), wanted)
    hits = rerank(list("abcdef"), pictures, query, 2)
    assert [hit.image_id for hit in hits] == ["abcdef"[row] for row in np.argsort(wanted)[::-1][:2]]


def test_a_picture_of_the_query_itself_scores_its_number_of_tokens() -> None:
    tokens = np.random.default_rng(1).normal(size=(4, 8))
    np.testing.assert_allclose(maxsim(5 * tokens, tokens[None, ::-1]), [4])


def test_a_token_without_direction_is_like_nothing_and_ties_are_ordered_by_id() -> None:
    pictures = np.zeros((3, 2, 4))
    assert maxsim(np.ones((2, 4)), pictures).tolist() == [0, 0, 0]
    assert [hit.image_id for hit in rerank(["c", "a", "b"], pictures, np.ones((2, 4)), 2)] == [
        "a",
        "b",
    ]
    assert rerank([], np.empty((0, 2, 4)), np.ones((2, 4)), 2) == []
