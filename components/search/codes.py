"""Codes of one bit per number of an embedding (RaBitQ, arXiv 2405.12497).

They name candidates quickly, which are then scored exactly.

Embeddings are centred, turned by a Hadamard rotation, so that no few channels decide, and kept as
their signs with two factors per row: at the width of a 7B, 0.5 KB instead of 16. FAISS's faster
form (`RaBitQfs`) sums in 16 bits, which overflow from about 3000 numbers on: there it finds
everything but the nearest.
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from components.search.vectors import Vectors

FACTORY = "HR,RaBitQ"  # FAISS's name of Hadamard rotation and codes
QUERY_BITS = 8  # per number of a query
TRAIN_ROWS = 10_000  # the centre is their mean


class Codes:
    """Signs of rotated embeddings, in memory."""

    def __init__(self, index: faiss.Index, num_candidates: int) -> None:
        self._index, self.num_candidates = index, num_candidates
        turned: Any = faiss.downcast_index(index)
        signs: Any = faiss.downcast_index(turned.index)
        signs.qb = QUERY_BITS

    @classmethod
    def empty(cls, sample: np.ndarray, num_candidates: int) -> "Codes":
        """Return codes of no rows yet, centred on the mean of `sample` (rows, dim)."""
        index = faiss.index_factory(sample.shape[1], FACTORY, faiss.METRIC_INNER_PRODUCT)
        index.train(np.ascontiguousarray(sample, np.float32))
        return cls(index, num_candidates)

    @classmethod
    def read(cls, path: Path, num_candidates: int) -> "Codes":
        """Read the file that `write` made."""
        return cls(faiss.read_index(str(path)), num_candidates)

    def write(self, path: Path) -> None:
        """Write a file; equal embeddings, added in the same order, give equal bytes."""
        faiss.write_index(self._index, str(path))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, embeddings: np.ndarray) -> None:
        """Append rows (rows, dim)."""
        self._index.add(np.ascontiguousarray(embeddings, np.float32))

    def find(self, queries: np.ndarray, k: int) -> list[np.ndarray]:
        """Find the rows whose codes are nearest to each of `queries` (queries, dim).

        These are `num_candidates`, at least k, or all there are.
        """
        count = min(max(k, self.num_candidates), len(self))
        if count == 0:
            return [np.empty(0, np.int64)] * len(queries)

        # FAISS fills up with -1 when it finds fewer
        _, found = self._index.search(queries, count)
        return [rows[rows >= 0] for rows in found]


def training_rows(vectors: Vectors) -> np.ndarray:
    """Return TRAIN_ROWS evenly spread rows, or all if there are fewer: (rows, dim)."""
    count = min(TRAIN_ROWS, len(vectors))
    return vectors.take(np.linspace(0, len(vectors) - 1, count).astype(np.int64))
