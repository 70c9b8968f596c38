"""A corpus: listed once without reading a picture, cut into shards by the order of picture ids.

So the shards, and with them every file of the store, are the same however many workers share them
and however often a killed run is started again. Tars are not read to be listed: each becomes one
shard, and only reading it tells what is in it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from components import schema
from components.files.storage import FileState
from components.store.rejects import Reject

Kind = Literal["folder", "parquet", "list", "tars"]
FILE, ROW = "file", "row"
ROWS_AT_ONCE = 65_536  # as Python objects
ENTRIES = pa.schema([(schema.IMAGE_ID, pa.string()), (FILE, pa.string()), (ROW, pa.int64())])


class Corpus(NamedTuple):
    """The listing of a corpus."""

    kind: Kind
    root: str  # a path or a URI
    # of ENTRIES, sorted by id: a picture each, `row` 0 in a picture file; of tars, the tars
    entries: pa.Table
    # what has no place in the plan: bad and repeated ids, files outside the root
    rejects: list[Reject]
    skipped: dict[str, int]  # files that are not pictures by their name, counted by suffix
    files: list[FileState]


class Picture(NamedTuple):
    """A picture of a corpus; `load` returns its bytes or raises UnreadablePictureError."""

    image_id: str
    load: Callable[[], bytes]


class Shard(NamedTuple):
    """Consecutive pictures of a corpus, or one tar: one file of the store."""

    number: int
    image_ids: list[str]  # of a tar, what the ids of its pictures begin with
    files: list[str]
    rows: list[int]
    size: int  # its share of the work: pictures, or bytes of a tar


def build_corpus(
    kind: Kind,
    root: str,
    entries: pa.Table,
    rejects: list[Reject],
    skipped: dict[str, int],
    files: list[FileState],
) -> Corpus:
    """Sort the entries by id; of a repeated id the first in (file, row) order counts.

    Ids of more than `schema.MAX_ID_BYTES` are rejects.
    """
    rejects = list(rejects)

    # The reject of a long id shows people its beginning.
    is_long = pc.greater(pc.binary_length(entries[schema.IMAGE_ID]), schema.MAX_ID_BYTES)
    for entry in entries.filter(is_long).to_pylist():
        where = f"in {entry[FILE][:200]}, row {entry[ROW]}"
        detail = f"the id has more than {schema.MAX_ID_BYTES} bytes, {where}"
        rejects.append(Reject(entry[schema.IMAGE_ID][:100], "bad_id", detail))

    # Files and rows decide between equal ids, whatever order they were listed in.
    order = [(name, "ascending") for name in (schema.IMAGE_ID, FILE, ROW)]
    ordered = entries.filter(pc.invert(is_long)).sort_by(order)
    is_repeated = _repeats(ordered[schema.IMAGE_ID])
    for entry in ordered.filter(is_repeated).to_pylist():
        detail = f"again in {entry[FILE]}, row {entry[ROW]}"
        rejects.append(Reject(entry[schema.IMAGE_ID], "duplicate_id", detail))

    kept = ordered.filter(pc.invert(is_repeated))
    return Corpus(kind, root, kept, sorted(rejects), dict(sorted(skipped.items())), sorted(files))


def plan_shards(corpus: Corpus, rows_per_shard: int) -> Iterator[Shard]:
    """Cut the corpus into shards of `rows_per_shard` pictures, the last shorter, or one per tar."""
    sizes = {file.name: file.num_bytes for file in corpus.files}
    step = 1 if corpus.kind == "tars" else rows_per_shard

    for number, start in enumerate(range(0, corpus.entries.num_rows, step)):
        columns = corpus.entries.slice(start, step).to_pydict()

        # Nobody knows yet how many pictures a tar holds, so its bytes stand for them.
        size = max(1, sizes[columns[FILE][0]]) if corpus.kind == "tars" else len(columns[FILE])
        yield Shard(number, columns[schema.IMAGE_ID], columns[FILE], columns[ROW], size)


def num_listed(corpus: Corpus) -> int | None:
    """Count the pictures of the corpus; None for tars, which only reading tells."""
    return None if corpus.kind == "tars" else corpus.entries.num_rows + len(corpus.rejects)


def corpus_identity(corpus: Corpus) -> dict[str, Any]:
    """Return kind and hash of the corpus for the manifest; the same for a copy elsewhere."""
    digest = hashlib.sha256()
    for part in _listing(corpus):
        digest.update(part.encode())
    return {"kind": corpus.kind, "listing_sha256": digest.hexdigest()}


def _listing(corpus: Corpus) -> Iterator[str]:
    """Write JSON of the files and of the columns of the entries.

    The text comes in pieces: a list may have ten million rows.
    """
    files = [(file.name, file.num_bytes) for file in corpus.files]
    yield f"[{json.dumps(files)}, {{"

    for number, name in enumerate(ENTRIES.names):
        yield f"{', ' if number else ''}{json.dumps(name)}: ["
        start = 0

        # The brackets of each batch are cut off, so that all batches make one JSON list.
        for batch in corpus.entries.select([name]).to_batches(ROWS_AT_ONCE):
            values = json.dumps(batch[name].to_pylist())[1:-1]
            yield f", {values}" if start else values
            start += len(batch)
        yield "]"

    yield "}]"


def _repeats(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Mark the sorted ids that are equal to the id before."""
    again = pc.equal(ids.slice(1), ids.slice(0, max(len(ids) - 1, 0)))
    first = [pa.array([False] * min(len(ids), 1), pa.bool_())]
    return pa.chunked_array([*first, *again.chunks], pa.bool_())
