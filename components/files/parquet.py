"""Parquet of others: every byte accounted for, read in batches of bounded size.

What a file unpacks to is looked up in the headers of its pages before a page is unpacked: the sizes in the footer are
only a promise, and one value that is repeated, or of zeros, takes gigabytes from a file of two kilobytes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from components.files.storage import is_uri, open_file
from components.files.unpacking import DamagedFileError

# What pyarrow raises of damaged files, and what this module raises.
TABLE_ERRORS = (pa.ArrowException, OSError, MemoryError, SystemError, UnicodeDecodeError, DamagedFileError)
BATCH_BYTES = 1 << 27  # that a batch may unpack to
BATCH_ROWS = 1024
READ_BYTES = 1 << 20  # of a column at once
MAX_PAGE_BYTES = 1 << 30  # unpacked; writers put up to 1024 values into one page
FREE_PAGE_BYTES = 1 << 26  # such a page may be packed as closely as can be
MAX_PAGE_EXPANSION = 100  # of a larger one; pictures are packed already
TRUSTED_EXPANSION = 20  # of a column of a file in a bucket, whose page headers cost a request each
HEADER_BYTES = 1 << 16  # of a page, with statistics
MAGIC = b"PAR1"
# Texts as bytes: whether a value is UTF-8 is a question of that value.
PLAIN = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
}


class Pages(NamedTuple):
    """What the pages of a column of a row group unpack to, in bytes."""

    total: int
    dictionary: int  # each row may be all of it


@contextmanager
def open_parquet(place: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file whose footer tells of all its bytes and rows.

    Raises DamagedFileError, OSError and pa.ArrowException for others.
    """
    with open_file(place) as file:
        options = {"buffer_size": READ_BYTES, "page_checksum_verification": True}
        with pq.ParquetFile(file, **options) as table:
            _check_whole(file, table.metadata)
            yield table


def read_batches(place: str, table: pq.ParquetFile, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a row group, as many at once as unpack to BATCH_BYTES.

    Raises one of TABLE_ERRORS at damage, for rows that are fewer than promised, and for pages that unpack to too much.
    """
    row_group = table.metadata.row_group(group)
    wanted = [chunk for chunk in _chunks(row_group) if chunk.path_in_schema.partition(".")[0] in columns]
    with open_file(place) as file:
        pages = [_pages(file, chunk) if _is_suspect(place, chunk) else _promised(chunk) for chunk in wanted]
    row_bytes = sum(page.total // max(row_group.num_rows, 1) + page.dictionary for page in pages)
    num_rows = min(max(BATCH_BYTES // max(row_bytes, 1), 1), BATCH_ROWS)

    found = 0
    for batch in table.iter_batches(num_rows, row_groups=[group], columns=list(columns), use_threads=False):
        found += len(batch)
        yield batch
    if found != row_group.num_rows:
        raise DamagedFileError(f"row group {group} holds {found} rows, and its footer says {row_group.num_rows}")


def check_names(place: str, present: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises ValueError for a column that is there twice: nobody can tell which of them is meant."""
    for name in wanted:
        if present.count(name) > 1:
            raise ValueError(f"{place}: has {present.count(name)} columns {name!r}; keep one of them")


def scalar_value(scalar: Any) -> Any:
    """A value for Python. What is not UTF-8 in a text becomes lone surrogates, which no text may hold."""
    if isinstance(scalar, pa.StructScalar) and scalar.is_valid:
        return {name: scalar_value(scalar[at]) for at, name in enumerate(field.name for field in scalar.type)}
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        value = scalar.value if isinstance(scalar, pa.DictionaryScalar) else scalar
        return value.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")


def check_batch(batch: pa.RecordBatch) -> None:
    """Raises pa.ArrowInvalid for damage that would bring the process down. A text may be no UTF-8: `scalar_value`."""
    for column in batch.columns:
        _check_array(column)


def _check_array(array: pa.Array) -> None:
    if pa.types.is_struct(array.type):
        array.validate()
        for field in array.flatten():
            _check_array(field)
        return
    if pa.types.is_dictionary(array.type) and array.type.value_type in PLAIN:
        array.validate()
        array = pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(PLAIN[array.type.value_type]))
    array.cast(PLAIN.get(array.type, array.type)).validate(full=True)


def _check_whole(file: IO[bytes], metadata: pq.FileMetaData) -> None:
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    rows = [group.num_rows for group in groups]
    if sum(rows) != metadata.num_rows or min(rows, default=0) < 0:
        raise DamagedFileError(f"its footer promises {metadata.num_rows} rows, and its row groups hold {sum(rows)}")

    size = file.seek(0, 2)
    file.seek(size - 8)
    footer = size - 8 - int.from_bytes(file.read(4), "little")
    end = len(MAGIC)
    for group in groups:
        for chunk in _chunks(group):
            start = _start(chunk)
            end = max(end, start + chunk.total_compressed_size)
            if start < len(MAGIC) or chunk.total_compressed_size < 0 or end > footer:
                raise DamagedFileError("its footer promises row groups that are not there")

    # Indexes of pages and Bloom filters may lie behind the rows, another file in front of them.
    if (at := _find(file, 2 * MAGIC, footer - end + 2 * len(MAGIC))) >= 0 and end < footer:
        raise DamagedFileError(f"its first {at + 4} bytes are a file of their own; cut it there and read both")


def _find(file: IO[bytes], wanted: bytes, stop: int) -> int:
    """Where some bytes first are before `stop`; -1 if they are not there."""
    at = 0
    while at < stop:
        file.seek(at)
        found = file.read(min(READ_BYTES, stop - at)).find(wanted)
        if found >= 0:
            return at + found
        at += READ_BYTES - len(wanted)
    return -1


def _chunks(group: pq.RowGroupMetaData) -> Iterator[pq.ColumnChunkMetaData]:
    yield from (group.column(number) for number in range(group.num_columns))


def _start(chunk: pq.ColumnChunkMetaData) -> int:
    """Where the pages of a column begin; some writers note 0 where there is no dictionary."""
    return min(at for at in (chunk.dictionary_page_offset or chunk.data_page_offset, chunk.data_page_offset))


def _is_suspect(place: str, chunk: pq.ColumnChunkMetaData) -> bool:
    return not is_uri(place) or chunk.total_uncompressed_size > TRUSTED_EXPANSION * chunk.total_compressed_size


def _promised(chunk: pq.ColumnChunkMetaData) -> Pages:
    dictionary = chunk.data_page_offset - _start(chunk) if chunk.has_dictionary_page else 0
    return Pages(chunk.total_uncompressed_size, dictionary * TRUSTED_EXPANSION)


def _pages(file: IO[bytes], chunk: pq.ColumnChunkMetaData) -> Pages:
    """Add up the headers of all pages of a column. Raises DamagedFileError for a page that takes too much."""
    at = _start(chunk)
    end = at + chunk.total_compressed_size
    total = dictionary = 0
    while at < end:
        file.seek(at)
        header = _Header(file.read(min(HEADER_BYTES, end - at)))
        kind, unpacked, packed = header.page()
        if min(unpacked, packed) < 0 or at + header.at + packed > end:
            raise DamagedFileError("the header of a page is damaged")
        is_bomb = unpacked > FREE_PAGE_BYTES and unpacked > MAX_PAGE_EXPANSION * packed
        if is_bomb or unpacked > MAX_PAGE_BYTES:
            raise DamagedFileError(f"a page of {packed} bytes unpacks to {unpacked}")
        total += unpacked
        dictionary = max(dictionary, unpacked if kind == DICTIONARY_PAGE else 0)
        at += header.at + packed
    return Pages(total, dictionary)


# Thrift's compact protocol, as far as a header of a page needs it.
STOP, TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(13)
DICTIONARY_PAGE = 2
MAX_DEPTH = 8


class _Header:
    """The header of a page at the beginning of some bytes; `at` is where it ends."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def page(self) -> tuple[int, int, int]:
        """Kind, bytes unpacked and bytes in the file. Raises DamagedFileError."""
        found = {1: -1, 2: -1, 3: -1}
        try:
            for number, kind in self._fields():
                if number in found and kind == I32:
                    found[number] = self._signed()
                else:
                    self._skip(kind, MAX_DEPTH)
        except IndexError:
            raise DamagedFileError("the header of a page is damaged") from None
        return found[1], found[2], found[3]

    def _fields(self) -> Iterator[tuple[int, int]]:
        number = 0
        while (head := self._byte()) != STOP:
            number = number + (head >> 4) if head >> 4 else self._signed()
            yield number, head & 15

    def _skip(self, kind: int, depth: int) -> None:
        if depth == 0:
            raise DamagedFileError("the header of a page is damaged")
        if kind == BYTE:
            self._byte()
        elif kind in (I16, I32, I64):
            self._varint()
        elif kind == DOUBLE:
            self.at += 8
        elif kind == BINARY:
            num_bytes = self._varint()
            self.at += num_bytes
        elif kind in (LIST, SET):
            head = self._byte()
            number = head >> 4 if head >> 4 < 15 else self._varint()
            for _ in range(number):
                self._skip(BYTE if head & 15 in (TRUE, FALSE) else head & 15, depth - 1)
        elif kind == STRUCT:
            for _, inner in self._fields():
                self._skip(inner, depth - 1)
        elif kind not in (TRUE, FALSE):
            raise DamagedFileError("the header of a page is damaged")

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise DamagedFileError("the header of a page is damaged")

    def _signed(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
