"""Files of an index folder, made from one file of a store at a time.

Memory holds the embeddings of one file, and the codes of all.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components import schema
from components.files.atomic import sha256_of
from components.search.codes import Codes, training_rows
from components.search.index import EmbeddingIndex
from components.search.index_folder import PICTURES
from components.search.index_manifest import (
    IndexedFile,
    IndexFile,
    IndexFolderError,
    Recall,
    store_file,
)
from components.search.vectors import Vectors, check_embeddings

RECALL_AT = 10
RECALL_QUERIES = 200  # pictures of the index, evenly spread: recall is known to about 0.01


class Source(NamedTuple):
    """A file of a store that is to be indexed."""

    store: str
    name: str
    sha256: str
    rows: int
    read_pictures: Callable[[], pa.Table]  # PICTURES
    # (rows, dim) float32, L2-normalised, in the same order
    read_embeddings: Callable[[], np.ndarray]


def index_file(folder: Path, source: Source) -> IndexedFile:
    """Write the embeddings of one file of a store, unless an earlier run has finished them."""
    # the name holds part of the SHA-256: a file that a kill has cut does not fit its name
    stem = f"vectors-{source.sha256[:16]}"
    vectors = None
    for path in folder.glob(f"{stem}-*.npy"):
        digest = sha256_of(path)
        if path.stem == f"{stem}-{digest[:16]}":
            vectors = IndexFile(name=path.name, bytes=path.stat().st_size, sha256=digest)
            break

    if vectors is None:
        embeddings = np.ascontiguousarray(source.read_embeddings(), np.float32)
        check_embeddings(embeddings, f"an embedding of {source.name}")
        vectors = store_file(folder, stem, ".npy", partial(_save, embeddings=embeddings))
    return IndexedFile(
        store=source.store,
        name=source.name,
        sha256=source.sha256,
        rows=source.rows,
        vectors=vectors,
    )


def store_pictures(folder: Path, tables: Sequence[pa.Table]) -> tuple[IndexFile, pa.Table]:
    """Write ids and sizes of all rows. Raises IndexFolderError when a picture is there twice."""
    pictures = pa.concat_tables([PICTURES.empty_table(), *tables])

    # a hit is named by its id alone
    counts = pc.value_counts(pictures[schema.IMAGE_ID])
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if twice:
        raise IndexFolderError(
            f"{len(twice)} pictures are in the files twice, such as {sorted(twice)[:3]}; "
            "`fwd2bot index build` makes an index anew from stores that share no picture"
        )

    write = partial(pq.write_table, pictures, compression="zstd")
    return store_file(folder, "pictures", ".parquet", write), pictures


def store_codes(
    folder: Path, codes: Codes | None, vectors: Vectors, num_candidates: int
) -> tuple[IndexFile, Codes]:
    """Write codes of all rows: extend `codes` by the rows they lack, or make new ones."""
    if codes is None:
        codes = Codes.empty(training_rows(vectors), num_candidates)

    # rows are only ever appended: codes cover the first ones
    start = 0
    for part in vectors.parts:
        codes.add(part[max(0, len(codes) - start) :])
        start += len(part)

    return store_file(folder, "codes", ".faiss", codes.write), codes


def measure_recall(index: EmbeddingIndex) -> Recall | None:
    """Measure the recall of an approximate index against exact search.

    Queries are pictures of the index, each left out of its own hits. Returns None for fewer than
    two pictures.
    """
    if len(index.image_ids) < 2:
        return None
    rows = np.unique(np.linspace(0, len(index.image_ids) - 1, RECALL_QUERIES).astype(np.int64))
    queries = index.vectors.take(rows)
    exact = EmbeddingIndex(index.image_ids, index.vectors)

    # one more than is counted, since the picture itself is among them
    found = index.search_batch(queries, RECALL_AT + 1)
    wanted = exact.search_batch(queries, RECALL_AT + 1)

    shares = []
    for row, found_hits, wanted_hits in zip(rows, found, wanted, strict=True):
        own = index.image_ids[row]
        nearest = [hit.image_id for hit in wanted_hits if hit.image_id != own][:RECALL_AT]
        found_ids = {hit.image_id for hit in found_hits}
        shares.append(len(found_ids.intersection(nearest)) / len(nearest))
    return Recall(k=RECALL_AT, queries=len(rows), recall=float(np.mean(shares)))


def _save(path: Path, embeddings: np.ndarray) -> None:
    with path.open("wb") as stream:
        np.save(stream, embeddings)
