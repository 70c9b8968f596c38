"""MaxSim in both directions against its definition, token by token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.store.token_similarity import mutual_maxsim


@given(st.integers(0, 2**16), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_the_score_is_the_mean_of_the_largest_cosines_of_all_tokens(
    seed: int, num_entries: int, query_tokens: int, entry_tokens: int
) -> None:
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(3, query_tokens, 5))
    gallery = rng.normal(size=(num_entries, entry_tokens, 5))
    queries /= np.linalg.norm(queries, axis=-1, keepdims=True)
    gallery /= np.linalg.norm(gallery, axis=-1, keepdims=True)
    found = mutual_maxsim(queries, gallery)
    for row, query in enumerate(queries):
        for column, entry in enumerate(gallery):
            best = [max(float(token @ other) for other in entry) for token in query]
            best += [max(float(token @ other) for other in query) for token in entry]
            assert found[row, column] == pytest.approx(np.mean(best), abs=1e-6)
    np.testing.assert_allclose(mutual_maxsim(gallery, queries), found.T, atol=1e-6)


def test_what_a_picture_shows_besides_counts_against_it() -> None:
    axes = np.eye(3, dtype=np.float32)
    caption, just_that, more = axes[[0, 1]], axes[[1, 0]], axes[[0, 1, 2]]
    assert mutual_maxsim(caption[None], just_that[None]) == 1
    assert mutual_maxsim(caption[None], more[None]) == pytest.approx(4 / 5)
