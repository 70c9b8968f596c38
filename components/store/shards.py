"""Shards, the files of a store: summary tokens and picture ids as Parquet for every common reader.

Columns are flat lists of one length; the shape is in the provenance. Pages are checksummed. 4-byte
floats are split into byte streams, which zstd packs better when a page holds 256 KiB or more, and
only when the *leaf* of the column is named: with the column's own name the option is ignored
without a word. 2-byte floats are plain, though splitting saves about 7 %: DuckDB does not read them
split (docs/decisions/0036).
"""

import io
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components import schema
from components.store import codecs
from components.store.fit import Fit
from components.store.provenance import Provenance, StoreError, from_metadata, to_metadata
from components.store.quantisation import Quantised
from components.store.rejects import Reject

TOKENS_LEAF = f"{schema.SUMMARY_TOKENS}.list.element"
READ_ROWS = 1024  # rows of a file that are in memory at once


class TokenRows(NamedTuple):
    """Rows of a store in memory."""

    image_ids: list[str]
    widths: np.ndarray  # int32 (batch,), pixels of the picture after rotation
    heights: np.ndarray  # int32 (batch,)
    summary_tokens: np.ndarray  # float32 (batch, summary_tokens, dim)


class EncodedRows(NamedTuple):
    """Rows of a store as they are written."""

    image_ids: list[str]
    widths: np.ndarray  # int32 (batch,)
    heights: np.ndarray  # int32 (batch,)
    stored: Quantised  # codes and scales (batch, …)


def no_rows(num_summary_tokens: int, dim: int) -> TokenRows:
    """Return zero rows of this shape."""
    no_sizes = np.empty(0, np.int32)
    return TokenRows([], no_sizes, no_sizes, np.empty((0, num_summary_tokens, dim), np.float32))


def concatenate(parts: Sequence[TokenRows]) -> TokenRows:
    """Join the rows of at least one part."""
    image_ids, *columns = zip(*parts, strict=True)
    return TokenRows(list(chain(*image_ids)), *map(np.concatenate, columns))


def encode_rows(
    rows: TokenRows, codec: codecs.Codec, fit: Fit | None = None
) -> tuple[EncodedRows, list[Reject]]:
    """Encode the rows that a codec can hold, sorted by id; the others become rejects."""
    stored, faults = codecs.encode_checked(rows.summary_tokens, codec, fit)
    rejects, kept = [], []
    for row, (image_id, fault) in enumerate(zip(rows.image_ids, faults, strict=True)):
        if fault is None:
            kept.append(row)
        else:
            rejects.append(Reject(image_id, fault, f"the summary tokens do not fit {codec}"))

    # Readers find an id by bisection, so the rows of a file are sorted by id.
    kept.sort(key=rows.image_ids.__getitem__)
    order = np.array(kept, np.int64)
    image_ids = [rows.image_ids[row] for row in kept]
    in_order = Quantised(stored.codes[order], stored.scales[order])
    return EncodedRows(image_ids, rows.widths[order], rows.heights[order], in_order), rejects


def shard_bytes(
    rows: EncodedRows, provenance: Provenance, rows_per_row_group: int, fit: Fit | None = None
) -> bytes:
    """Write the Parquet file of `rows`: equal rows and provenance give equal bytes.

    Raises ValueError for ids that do not rise.
    """
    if not are_rising(rows.image_ids):
        raise ValueError("the rows of a file are sorted by picture id, and none occurs twice")

    # Scales are a column only where the codec has some.
    target = token_schema(provenance, fit)
    columns = {
        schema.IMAGE_ID: pa.array(rows.image_ids, pa.string()),
        schema.WIDTH: pa.array(rows.widths, pa.int32()),
        schema.HEIGHT: pa.array(rows.heights, pa.int32()),
    }
    for name, values in zip((schema.SUMMARY_TOKENS, schema.SCALES), rows.stored, strict=True):
        if name in target.names:
            columns[name] = _list_column(values, target.field(name).type)

    # The leaf is named, since the column's own name would be ignored.
    split = {TOKENS_LEAF: "BYTE_STREAM_SPLIT"} if provenance.codec == "float32" else None
    sink = io.BytesIO()
    pq.write_table(
        pa.Table.from_pydict(columns, target.with_metadata(to_metadata(provenance))),
        sink,
        row_group_size=rows_per_row_group,
        compression="zstd",
        use_dictionary=False,
        write_statistics=[schema.IMAGE_ID],  # the others help nobody and make the footer long
        column_encoding=split,
        write_page_checksum=True,
    )
    return sink.getvalue()


def are_rising(image_ids: Sequence[str]) -> bool:
    """Return whether ids are sorted and none occurs twice."""
    return all(left < right for left, right in pairwise(image_ids))


def token_schema(provenance: Provenance, fit: Fit | None = None) -> pa.Schema:
    """Return the Arrow schema of every file of a store."""
    value, shape = codecs.code_type(
        provenance.codec, provenance.num_summary_tokens, provenance.dim, fit
    )
    return schema.compressed(*shape, value, codecs.num_scales(provenance.codec, provenance.dim))


def open_shard(
    path: Path, fit: Fit | None = None, footer: pq.FileMetaData | None = None
) -> pq.ParquetFile:
    """Open a file of a store, with page checksums verified at every read.

    `footer` spares reading it again. Raises StoreError when it is no Parquet or has another schema.
    """
    try:
        shard = pq.ParquetFile(path, metadata=footer, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{path}: cannot be opened: {error}; restore it or compress again"
        ) from None

    # A footer that is passed in was checked when the file was first read.
    if footer is None:
        provenance = from_metadata(shard.schema_arrow.metadata, str(path))
        if not shard.schema_arrow.equals(token_schema(provenance, fit), check_metadata=False):
            raise StoreError(
                f"{path}: has the columns {shard.schema_arrow.names} of other types than its "
                "provenance says"
            )

    return shard


def read_ids(path: Path, fit: Fit | None = None) -> list[str]:
    """Read the picture ids of one file in its order. Raises StoreError for a damaged page."""
    try:
        with open_shard(path, fit) as shard:
            return shard.read(columns=[schema.IMAGE_ID])[schema.IMAGE_ID].to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def read_rows(path: Path, provenance: Provenance, fit: Fit | None = None) -> Iterator[TokenRows]:
    """Read one file in order, READ_ROWS rows at a time. Raises StoreError for a damaged page."""
    try:
        with open_shard(path, fit) as shard:
            for batch in shard.iter_batches(READ_ROWS):
                yield _token_rows(batch, provenance, fit, slice(None))
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def find_rows(
    path: Path,
    footer: pq.FileMetaData,
    wanted: Collection[str],
    provenance: Provenance,
    fit: Fit | None = None,
) -> Iterator[TokenRows]:
    """Find the rows of one file with an id of `wanted`, in the row groups that can hold them.

    Raises StoreError for a damaged page.
    """
    try:
        with open_shard(path, fit, footer) as shard:
            groups = {_row_group(shard, image_id) for image_id in wanted}
            for number in sorted(groups):
                # Threads would cost a picture more than they save.
                group = shard.read_row_group(number, use_threads=False).combine_chunks()
                (batch,) = group.to_batches()

                ids = batch[schema.IMAGE_ID].to_pylist()
                rows = [row for row, image_id in enumerate(ids) if image_id in wanted]
                yield _token_rows(batch, provenance, fit, np.array(rows, np.int64))
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _row_group(shard: pq.ParquetFile, image_id: str) -> int:
    """Return the number of the row group that can hold an id: rows are sorted by it."""
    groups = range(shard.num_row_groups)
    above = bisect_right(groups, image_id, key=lambda group: _first_id(shard, group))
    return max(above - 1, 0)


def _first_id(shard: pq.ParquetFile, group: int) -> str:
    statistics = shard.metadata.row_group(group).column(0).statistics
    if statistics is not None and statistics.has_min_max:
        return statistics.min

    # Ids of 4 KiB and more have no statistics.
    return shard.read_row_group(group, columns=[schema.IMAGE_ID])[schema.IMAGE_ID][0].as_py()


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(f"{path}: is damaged: {error}; restore it or compress again")


def _token_rows(
    batch: pa.RecordBatch, provenance: Provenance, fit: Fit | None, rows: np.ndarray | slice
) -> TokenRows:
    """Decode some rows of a batch."""
    codec, dim = provenance.codec, provenance.dim
    _, shape = codecs.code_type(codec, provenance.num_summary_tokens, dim, fit)

    # Rows are picked before they are decoded: few of a row group may be wanted.
    codes = _lists(batch[schema.SUMMARY_TOKENS]).reshape(-1, *shape)[rows]
    num_scales = codecs.num_scales(codec, dim)
    if num_scales:
        scales = _lists(batch[schema.SCALES]).reshape(-1, shape[0], num_scales)[rows]
    else:
        scales = np.empty((*codes.shape[:2], 0), np.float32)

    return TokenRows(
        np.array(batch[schema.IMAGE_ID].to_pylist(), object)[rows].tolist(),
        np.from_dlpack(batch[schema.WIDTH])[rows],
        np.from_dlpack(batch[schema.HEIGHT])[rows],
        codecs.decode(Quantised(codes, scales), codec, dim, fit),
    )


def _lists(column: pa.FixedSizeListArray) -> np.ndarray:
    """View the lists of a column as an array (rows, size)."""
    # Arrow's `to_numpy` and `flatten` first import pandas or 300 functions.
    size = column.type.list_size
    values = column.values.slice(column.offset * size, len(column) * size)
    return np.from_dlpack(values).reshape(-1, size)


def _list_column(stored: np.ndarray, kind: pa.FixedSizeListType) -> pa.FixedSizeListArray:
    """Build a column of `stored` (rows, …), each row one flat list; Arrow refuses another type."""
    return pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), type=kind)
