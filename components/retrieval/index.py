"""Exact search by cosine similarity: FAISS flat inner product over L2-normalised embeddings.

FAISS answers a NaN query with ids -1 and a score of -3.4e38 and no error, and orders equal scores as it likes; here a
bad query is an error, and equal scores are ordered by picture id.
"""

from collections.abc import Sequence
from typing import NamedTuple

import faiss
import numpy as np

NORM_TOLERANCE = 1e-3  # how far from length 1 an embedding may be; fp16 storage is within 5e-4


class Hit(NamedTuple):
    """One found picture; `score` is the cosine similarity, -1 to 1."""

    image_id: str
    score: float


class EmbeddingIndex:
    """An index in memory over the embeddings of one store."""

    def __init__(self, image_ids: Sequence[str], embeddings: np.ndarray) -> None:
        """`embeddings` (len(image_ids), dim) float32, L2-normalised. Raises ValueError for other vectors."""
        if embeddings.ndim != 2 or len(embeddings) != len(image_ids):
            raise ValueError(f"{len(image_ids)} ids need as many embeddings, not an array of shape {embeddings.shape}")
        _check_vectors(embeddings, "an embedding")
        self.image_ids = list(image_ids)
        self._index = faiss.IndexFlatIP(embeddings.shape[1])
        self._index.add(np.ascontiguousarray(embeddings, np.float32))

    def search(self, query: np.ndarray, k: int) -> list[Hit]:
        """The `k` pictures nearest to `query` (dim,), best first, equal scores by id; all pictures when there are fewer
        than `k`.

        Raises ValueError: k below 1, or a query of another dimension, not finite or not of length 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one picture")
        if query.shape != (self._index.d,):
            raise ValueError(f"the query has shape {query.shape}, the index holds vectors of {self._index.d}")
        _check_vectors(query[None], "the query")
        k = min(k, len(self.image_ids))
        return sorted(self._candidates(query, k), key=lambda hit: (-hit.score, hit.image_id))[:k]

    def _candidates(self, query: np.ndarray, k: int) -> list[Hit]:
        """At least the k best, and every picture that ties with the k-th."""
        count = k
        while count > 0:
            scores, rows = self._index.search(np.ascontiguousarray(query[None], np.float32), count)
            if count == len(self.image_ids) or scores[0, -1] < scores[0, k - 1]:
                return [Hit(self.image_ids[row], float(score)) for row, score in zip(rows[0], scores[0], strict=True)]
            count = min(2 * count, len(self.image_ids))
        return []


def _check_vectors(vectors: np.ndarray, name: str) -> None:
    norms = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(norms).all():
        raise ValueError(f"{name} is not finite")
    if (np.abs(norms - 1) > NORM_TOLERANCE).any():
        raise ValueError(f"{name} is not of length 1; normalise it first")
