"""MaxSim over summary tokens: the late interaction of ColBERT and ColPali.

arXiv 2004.12832 and arXiv 2407.01449.
"""

from collections.abc import Sequence

import numpy as np

from components.search.index import Hit


def maxsim(query_tokens: np.ndarray, picture_tokens: np.ndarray) -> np.ndarray:
    """Sum the largest cosines of the query's tokens with tokens of a picture: (pictures,) float32.

    Args: query_tokens (query tokens, dim); picture_tokens (pictures, summary tokens, dim). A token
    of length 0 has cosine 0 with all.
    """
    # (pictures, summary tokens, query tokens)
    similarities = _directions(picture_tokens) @ _directions(query_tokens).T
    scores: np.ndarray = similarities.max(axis=1).sum(axis=1)
    return scores


def rerank(
    image_ids: Sequence[str], picture_tokens: np.ndarray, query_tokens: np.ndarray, k: int
) -> list[Hit]:
    """Return the `k` best pictures by MaxSim, equal scores by id; shapes as in `maxsim`."""
    scores = maxsim(query_tokens, picture_tokens)
    hits = [Hit(image_id, float(score)) for image_id, score in zip(image_ids, scores, strict=True)]
    return sorted(hits, key=lambda hit: (-hit.score, hit.image_id))[:k]


def _directions(tokens: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(tokens, axis=-1, keepdims=True)
    return tokens / np.where(norms > 0, norms, 1)
