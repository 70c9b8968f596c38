"""Embeddings of many pictures as one array in parts, and exact search over it.

The parts are in memory or memory-mapped.
"""

from collections.abc import Iterator, Sequence

import faiss
import numpy as np

NORM_TOLERANCE = 1e-3  # how far from length 1 an embedding may be; fp16 storage is within 5e-4
GATHERED_ROWS = 64
ROUNDING = 1e-5  # how far FAISS's score may be from a sum by rows; rows that near the k-th are kept


class Vectors:
    """L2-normalised rows (len(self), dim) float32, numbered from the first part to the last."""

    def __init__(self, parts: Sequence[np.ndarray], dim: int) -> None:
        """Take `parts` (rows, dim) float32, C-contiguous; nothing is copied or read yet."""
        self.parts, self.dim = list(parts), dim
        self._starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return rows by number: (len(rows), dim) float32 in the order asked for."""
        found = np.empty((len(rows), self.dim), np.float32)
        for places, block in self._gather(rows):
            found[places] = block
        return found

    def scores(self, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
        """Return inner products of rows with `query` (dim,), each a sum over its row.

        (len(rows),) float32.
        """
        found = np.empty(len(rows), np.float32)
        for places, block in self._gather(rows):
            found[places] = (block * query).sum(axis=1)
        return found

    def nearest(
        self, queries: np.ndarray, k: int, among: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Find the rows that may be the k best of each of `queries` (queries, dim).

        All rows are compared, or the sorted row numbers `among`. The result holds at least the k
        best, and every row that ties with the k-th.
        """
        found: list[list[np.ndarray]] = [[np.empty(0, np.int64)] for _ in queries]
        for rows, part in self._blocks(among):
            for query, places in enumerate(_nearest_of_part(part, queries, min(k, len(part)))):
                found[query].append(rows[places])
        return [np.concatenate(rows) for rows in found]

    def _gather(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Return places in `rows` and the vectors there, so few that the CPU's cache holds them."""
        part_of_row = np.searchsorted(self._starts, rows, side="right") - 1
        for part in np.unique(part_of_row):
            places = np.flatnonzero(part_of_row == part)
            for start in range(0, len(places), GATHERED_ROWS):
                some = places[start : start + GATHERED_ROWS]
                yield some, self.parts[part][rows[some] - self._starts[part]]

    def _blocks(self, among: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Return row numbers and vectors of each part, restricted to `among`; no empty parts."""
        # there is one start more than parts
        for start, part in zip(self._starts, self.parts, strict=False):
            rows = np.arange(start, start + len(part))
            if among is not None:
                rows = among[slice(*np.searchsorted(among, (start, start + len(part))))]
                part = part[rows - start]
            if len(rows):
                yield rows, part


def in_memory(embeddings: np.ndarray) -> Vectors:
    """Return the vectors of an array (rows, dim). Raises ValueError as `check_embeddings` does."""
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings are (rows, dim), not an array of shape {embeddings.shape}")
    check_embeddings(embeddings, "an embedding")
    return Vectors([np.ascontiguousarray(embeddings, np.float32)], embeddings.shape[1])


def check_embeddings(vectors: np.ndarray, name: str) -> None:
    """Raise ValueError when a row of `vectors` (rows, dim) is not finite or not of length 1."""
    norms = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(norms).all():
        raise ValueError(f"{name} is not finite")
    if (np.abs(norms - 1) > NORM_TOLERANCE).any():
        raise ValueError(f"{name} is not of length 1; normalise it first")


def _nearest_of_part(part: np.ndarray, queries: np.ndarray, k: int) -> list[np.ndarray]:
    """Find the places in `part` of the k ≤ len(part) nearest to each query.

    Places that tie with the k-th, up to FAISS's rounding, are among them.
    """
    # one more than k shows whether there are ties; twice as many are fetched until all are in
    count = min(k + 1, len(part))
    while True:
        scores, places = faiss.knn(queries, part, count, metric=faiss.METRIC_INNER_PRODUCT)
        is_near = scores >= scores[:, k - 1 : k] - ROUNDING
        if count == len(part) or not is_near[:, -1].any():
            return [row[near] for row, near in zip(places, is_near, strict=True)]
        count = min(2 * count, len(part))
