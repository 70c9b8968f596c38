"""One file of a store: summary tokens and their picture ids as Parquet that plain pyarrow and pandas read.

Pages are checksummed, and floats are split into byte streams: the sign-and-exponent bytes of neighbours resemble each
other, so zstd saves about 15 % where it saves 8 % of plain 2-byte floats. It does so only when a page holds 256
KiB or more, and only when the *leaf* of the column is named: with the column's own name the option is ignored without a
word.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components import schema
from components.compression import codecs
from components.compression.provenance import Provenance, StoreError, from_metadata, to_metadata
from components.compression.quantisation import Quantised
from components.compression.rejects import Reject

TOKENS_LEAF = f"{schema.SUMMARY_TOKENS}.list.element"
READ_ROWS = 1024  # rows of a file that are in memory at once


class TokenRows(NamedTuple):
    """Rows of a store in memory."""

    image_ids: list[str]
    widths: np.ndarray  # int32 (batch,), pixels of the picture after rotation
    heights: np.ndarray  # int32 (batch,)
    summary_tokens: np.ndarray  # float32 (batch, summary_tokens, dim)


def no_rows(num_summary_tokens: int, dim: int) -> TokenRows:
    """What rows of this shape begin with."""
    no_sizes = np.empty(0, np.int32)
    return TokenRows([], no_sizes, no_sizes, np.empty((0, num_summary_tokens, dim), np.float32))


def concatenate(parts: Sequence[TokenRows]) -> TokenRows:
    """The rows of all parts, of which there is at least one."""
    image_ids = [image_id for part in parts for image_id in part.image_ids]
    return TokenRows(image_ids, *(np.concatenate(arrays) for arrays in list(zip(*parts, strict=True))[1:]))


def split_by_codec(rows: TokenRows, codec: codecs.Codec) -> tuple[TokenRows, list[Reject]]:
    """The rows that a codec can hold, sorted by id, and rejects for the others."""
    faults = codecs.row_faults(rows.summary_tokens, codec)
    rejects = [
        Reject(image_id, fault, f"the summary tokens do not fit {codec}")
        for image_id, fault in zip(rows.image_ids, faults, strict=True)
        if fault
    ]
    kept = sorted((row for row, fault in enumerate(faults) if not fault), key=rows.image_ids.__getitem__)
    numbers = np.array(kept, np.int64)
    image_ids = [rows.image_ids[row] for row in kept]
    return TokenRows(image_ids, rows.widths[numbers], rows.heights[numbers], rows.summary_tokens[numbers]), rejects


def shard_bytes(rows: TokenRows, provenance: Provenance, rows_per_row_group: int) -> bytes:
    """The Parquet file of `rows`: equal rows and provenance give equal bytes.

    Raises ValueError for rows the codec cannot hold.
    """
    if any(codecs.row_faults(rows.summary_tokens, provenance.codec)):
        raise ValueError(
            f"some summary tokens do not fit codec {provenance.codec}; reject such rows before they are written"
        )
    stored = codecs.encode(rows.summary_tokens, provenance.codec)
    target = token_schema(provenance)
    columns = {
        schema.IMAGE_ID: pa.array(rows.image_ids, pa.string()),
        schema.WIDTH: pa.array(rows.widths, pa.int32()),
        schema.HEIGHT: pa.array(rows.heights, pa.int32()),
    }
    for name, values in ((schema.SUMMARY_TOKENS, stored.codes), (schema.SCALES, stored.scales)):
        if name in target.names:
            columns[name] = _tensor_column(values, target.field(name).type)
    sink = io.BytesIO()
    pq.write_table(
        pa.Table.from_pydict(columns, schema=target.with_metadata(to_metadata(provenance))),
        sink,
        row_group_size=rows_per_row_group,
        compression="zstd",
        use_dictionary=False,
        column_encoding={TOKENS_LEAF: "BYTE_STREAM_SPLIT"} if provenance.codec in codecs.FLOATS else None,
        write_page_checksum=True,
    )
    return sink.getvalue()


def token_schema(provenance: Provenance) -> pa.Schema:
    """The Arrow schema of every file of a store."""
    value, width = codecs.code_type(provenance.codec, provenance.dim)
    num_scales = codecs.num_scales(provenance.codec, provenance.dim)
    return schema.compressed(provenance.num_summary_tokens, width, value, num_scales)


def open_shard(path: Path) -> pq.ParquetFile:
    """A file of a store, with page checksums verified at every read.

    Raises StoreError when it is no Parquet or has another schema.
    """
    try:
        shard = pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be opened: {error}; restore it or compress again") from None
    provenance = from_metadata(shard.schema_arrow.metadata, str(path))
    if not shard.schema_arrow.equals(token_schema(provenance), check_metadata=False):
        raise StoreError(f"{path}: has the columns {shard.schema_arrow.names} of other types than its provenance says")
    return shard


def read_ids(path: Path) -> list[str]:
    """The picture ids of one file in its order."""
    try:
        with open_shard(path) as shard:
            return shard.read(columns=[schema.IMAGE_ID])[schema.IMAGE_ID].to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def read_rows(path: Path, provenance: Provenance, row_groups: list[int] | None = None) -> Iterator[TokenRows]:
    """The rows of one file in order, of all its row groups or of some, READ_ROWS at a time.

    Raises StoreError for a damaged page.
    """
    try:
        with open_shard(path) as shard:
            for batch in shard.iter_batches(READ_ROWS, row_groups=row_groups):
                yield _token_rows(batch, provenance)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(f"{path}: is damaged: {error}; restore it or compress again")


def _token_rows(batch: pa.RecordBatch, provenance: Provenance) -> TokenRows:
    codes = batch[schema.SUMMARY_TOKENS].to_numpy_ndarray()
    has_scales = schema.SCALES in batch.schema.names
    scales = batch[schema.SCALES].to_numpy_ndarray() if has_scales else np.empty((*codes.shape[:2], 0), np.float32)
    return TokenRows(
        batch[schema.IMAGE_ID].to_pylist(),
        batch[schema.WIDTH].to_numpy(),
        batch[schema.HEIGHT].to_numpy(),
        codecs.decode(Quantised(codes, scales), provenance.codec, provenance.dim),
    )


def _tensor_column(stored: np.ndarray, kind: pa.DataType) -> pa.ExtensionArray:
    flat = pa.array(stored.reshape(-1), kind.value_type)
    return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, type=kind.storage_type))
