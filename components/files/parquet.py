"""Parquet of others: every byte accounted for, read in batches of bounded size."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.files.parquet_footer import (
    READ_BYTES,
    Chunk,
    Pages,
    check_whole,
    read_footer,
    read_page_sizes,
)
from components.files.storage import is_uri, open_file
from components.files.unpacking import DamagedFileError

# What pyarrow raises of damaged files, and what this module raises.
TABLE_ERRORS = (
    pa.ArrowException,
    OSError,
    MemoryError,
    SystemError,
    UnicodeDecodeError,
    DamagedFileError,
)
BATCH_BYTES = 1 << 27  # that a batch may unpack to
BATCH_ROWS = 1024
TRUSTED_EXPANSION = 20  # of a column of a file in a bucket, whose page headers cost a request each
# Texts as bytes: whether a value is UTF-8 is a question of that value.
PLAIN = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
}


@contextmanager
def open_parquet(place: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file whose footer tells of all its bytes and rows.

    Raises DamagedFileError, OSError and pa.ArrowException for others.
    """
    with open_file(place) as file:
        options = {"buffer_size": READ_BYTES, "page_checksum_verification": True}
        with pq.ParquetFile(file, **options) as table:
            check_whole(file, table.metadata.num_rows)
            yield table


def read_batches(
    place: str, table: pq.ParquetFile, group: int, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a row group, as many at once as unpack to BATCH_BYTES.

    Raises one of TABLE_ERRORS at damage, for rows that are fewer than promised, and for pages that
    unpack to too much.
    """
    if lost := set(columns) - set(table.schema_arrow.names):
        raise DamagedFileError(f"row group {group} has no column {', '.join(sorted(lost))}")

    # One row may take as much as all of its dictionary.
    with open_file(place) as file:
        row_group = read_footer(file)[1][group]
        names = [name.encode() for name in columns]
        row_bytes = 0
        for chunk in row_group.chunks:
            if chunk.column in names:
                pages = _page_sizes(place, file, chunk)
                row_bytes += pages.total // max(row_group.num_rows, 1) + pages.dictionary
    num_rows = min(max(BATCH_BYTES // max(row_bytes, 1), 1), BATCH_ROWS)

    found = 0
    for batch in table.iter_batches(
        num_rows, row_groups=[group], columns=list(columns), use_threads=False
    ):
        found += len(batch)
        yield batch

    if found != row_group.num_rows:
        raise DamagedFileError(
            f"row group {group} holds {found} rows, and its footer says {row_group.num_rows}"
        )


def check_names(place: str, present: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise ValueError for a column that is there twice: nobody can tell which of them is meant."""
    for name in wanted:
        if present.count(name) > 1:
            raise ValueError(
                f"{place}: has {present.count(name)} columns {name!r}; keep one of them"
            )


def scalar_value(scalar: Any) -> Any:
    """Return a value for Python; what is not UTF-8 in a text becomes lone surrogates."""
    if isinstance(scalar, pa.StructScalar) and scalar.is_valid:
        values = {}
        for at, field in enumerate(scalar.type):
            values[field.name] = scalar_value(scalar[at])
        return values
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        value = scalar.value if isinstance(scalar, pa.DictionaryScalar) else scalar
        return value.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")


def check_batch(batch: pa.RecordBatch) -> None:
    """Raise pa.ArrowInvalid for damage that would end the process; a text may be no UTF-8."""
    for column in batch.columns:
        _check_array(column)


def _check_array(array: pa.Array) -> None:
    if pa.types.is_struct(array.type):
        array.validate()
        for field in array.flatten():
            _check_array(field)
        return

    # the texts of a dictionary as bytes, like the texts of a plain column below
    if pa.types.is_dictionary(array.type) and array.type.value_type in PLAIN:
        array.validate()
        array = pa.DictionaryArray.from_arrays(
            array.indices, array.dictionary.cast(PLAIN[array.type.value_type])
        )
    array.cast(PLAIN.get(array.type, array.type)).validate(full=True)


def _page_sizes(place: str, file: IO[bytes], chunk: Chunk) -> Pages:
    """Return the unpacked bytes of a column, by page headers or, where these cost much, footer."""
    if is_uri(place) and chunk.unpacked <= TRUSTED_EXPANSION * chunk.packed:
        return Pages(chunk.unpacked, chunk.unpacked if chunk.has_dictionary else 0)
    return read_page_sizes(file, chunk)
