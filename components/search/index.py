"""Search by cosine similarity: inner products of L2-normalised embeddings.

All pictures are compared, or candidates that codes name. Each candidate is scored from its float32
embedding by a sum over its row: a score does not depend on the batch or the kind of index, and
equal scores are ordered by picture id.

FAISS answers a NaN query with ids -1 and a score of -3.4e38 and no error; here a bad query is an
error.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from components.search.codes import Codes
from components.search.vectors import Vectors, check_embeddings


class Hit(NamedTuple):
    """One found picture; `score` is the cosine similarity, -1 to 1."""

    image_id: str
    score: float


class EmbeddingIndex:
    """Picture ids and embeddings; codes of the embeddings, if any, make search approximate."""

    def __init__(
        self, image_ids: Sequence[str], vectors: Vectors, codes: Codes | None = None
    ) -> None:
        """Take `image_ids` in the order of `vectors`. Raises ValueError for two lengths."""
        if len(image_ids) != len(vectors):
            raise ValueError(f"{len(image_ids)} ids need as many embeddings, not {len(vectors)}")
        self.image_ids, self.vectors, self.codes = image_ids, vectors, codes

    def search(self, query: np.ndarray, k: int, among: np.ndarray | None = None) -> list[Hit]:
        """Find the `k` pictures nearest to `query` (dim,), as `search_batch` does."""
        return self.search_batch(query[None], k, among)[0]

    def search_batch(
        self, queries: np.ndarray, k: int, among: np.ndarray | None = None
    ) -> list[list[Hit]]:
        """Find the `k` nearest pictures for each of `queries` (batch, dim), or all if fewer.

        The best come first, equal scores by id. `among`: sorted row numbers; all these pictures,
        and no others, are compared, whatever the kind of index. Raises ValueError: k below 1, or a
        query of another dimension, not finite or not of length 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one picture")
        if queries.shape[1:] != (self.vectors.dim,):
            raise ValueError(
                f"the query has shape {queries.shape[1:]}, "
                f"the index holds vectors of {self.vectors.dim}"
            )
        check_embeddings(queries, "the query")

        # candidates of all queries together, but scores query by query
        queries = np.ascontiguousarray(queries, np.float32)
        candidates = self._candidates(queries, k, among)
        pairs = zip(queries, candidates, strict=True)
        return [self._best(query, rows, k) for query, rows in pairs]

    def _candidates(
        self, queries: np.ndarray, k: int, among: np.ndarray | None
    ) -> list[np.ndarray]:
        """Return the rows to score for each query: those that codes name, or the exact nearest."""
        if self.codes is not None and among is None:
            return self.codes.find(queries, k)
        return self.vectors.nearest(queries, k, among)

    def _best(self, query: np.ndarray, rows: np.ndarray, k: int) -> list[Hit]:
        scored = zip(rows, self.vectors.scores(rows, query), strict=True)
        hits = [Hit(self.image_ids[row], float(score)) for row, score in scored]
        return sorted(hits, key=lambda hit: (-hit.score, hit.image_id))[:k]
