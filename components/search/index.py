"""Search by cosine similarity: inner products of L2-normalised embeddings, exact or among candidates of codes.

Whoever names the candidates, each is scored from its float32 embedding by a sum over its row: a
score does not depend on the batch or the kind of index, and equal scores are ordered by picture id.
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
    """What is searched: picture ids, their embeddings, and perhaps codes of these, which make it approximate."""

    def __init__(
        self, image_ids: Sequence[str], vectors: Vectors, codes: Codes | None = None
    ) -> None:
        """`image_ids` in the order of `vectors`. Raises ValueError when there are more of the one than of the other."""
        if len(image_ids) != len(vectors):
            raise ValueError(f"{len(image_ids)} ids need as many embeddings, not {len(vectors)}")
        self.image_ids, self.vectors, self.codes = image_ids, vectors, codes

    def search(self, query: np.ndarray, k: int, among: np.ndarray | None = None) -> list[Hit]:
        """The `k` pictures nearest to `query` (dim,); `search_batch` says the rest."""
        return self.search_batch(query[None], k, among)[0]

    def search_batch(
        self, queries: np.ndarray, k: int, among: np.ndarray | None = None
    ) -> list[list[Hit]]:
        """For each of `queries` (batch, dim) the `k` nearest pictures, best first, equal scores by id; all pictures
        when there are fewer than `k`.

        `among`: sorted row numbers; all of them, and no others, are compared, whatever the kind of
        index. Raises ValueError: k below 1, or a query of another dimension, not finite or not of
        length 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one picture")
        if queries.shape[1:] != (self.vectors.dim,):
            raise ValueError(
                f"the query has shape {queries.shape[1:]}, the index holds vectors of {self.vectors.dim}"
            )
        check_embeddings(queries, "the query")
        queries = np.ascontiguousarray(queries, np.float32)
        rows = self._candidates(queries, k, among)
        return [
            self._best(query, candidates, k)
            for query, candidates in zip(queries, rows, strict=True)
        ]

    def _candidates(
        self, queries: np.ndarray, k: int, among: np.ndarray | None
    ) -> list[np.ndarray]:
        if self.codes is not None and among is None:
            return self.codes.find(queries, k)
        return self.vectors.nearest(queries, k, among)

    def _best(self, query: np.ndarray, rows: np.ndarray, k: int) -> list[Hit]:
        scores = self.vectors.scores(rows, query)
        hits = [
            Hit(self.image_ids[row], float(score)) for row, score in zip(rows, scores, strict=True)
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.image_id))[:k]
