"""The order of found pictures by MaxSim of their tokens."""

from collections.abc import Sequence

import numpy as np

from components.search.index import Hit
from components.store.token_similarity import directions, mutual_maxsim


def rerank(
    image_ids: Sequence[str], picture_tokens: np.ndarray, query_tokens: np.ndarray, k: int
) -> list[Hit]:
    """Return the `k` best pictures by MaxSim in both directions, equal scores by id.

    Args: picture_tokens (pictures, summary tokens, dim); query_tokens (query tokens, dim).
    """
    query = directions(query_tokens)[None]
    scores = mutual_maxsim(query, directions(picture_tokens))[0].tolist()
    hits = [Hit(image_id, score) for image_id, score in zip(image_ids, scores, strict=True)]
    return sorted(hits, key=lambda hit: (-hit.score, hit.image_id))[:k]
