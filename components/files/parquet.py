"""Parquet of others: every byte accounted for, read in batches of bounded size.

What a file unpacks to is looked up in the headers of its pages before a page is unpacked: the sizes
in the footer are only a promise, and one value that is repeated, or of zeros, takes gigabytes from
a file of two kilobytes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

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
READ_BYTES = 1 << 20  # of a column at once
MAX_PAGE_BYTES = 1 << 30  # unpacked; writers put up to 1024 values into one page
FREE_PAGE_BYTES = 1 << 26  # such a page may be packed as closely as can be
MAX_PAGE_EXPANSION = 100  # of a larger one; pictures are packed already
TRUSTED_EXPANSION = 20  # of a column of a file in a bucket, whose page headers cost a request each
# what old pyarrow wrote at most; each row that is missing becomes a reject
MAX_GROUP_ROWS = 1 << 26
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
    # each row may be all of it; also of what is packed by what it shares with the row before
    dictionary: int


class _Chunk(NamedTuple):
    """A column of a row group, as the footer tells."""

    column: bytes  # the first name of its path
    start: int  # byte
    has_dictionary: bool  # or values that repeat parts of those before
    packed: int  # bytes, with the headers of the pages
    unpacked: int  # bytes; a promise


class _Group(NamedTuple):
    num_rows: int
    chunks: list[_Chunk]


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


def read_batches(
    place: str, table: pq.ParquetFile, group: int, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The rows of a row group, as many at once as unpack to BATCH_BYTES.

    Raises one of TABLE_ERRORS at damage, for rows that are fewer than promised, and for pages that
    unpack to too much.
    """
    if lost := set(columns) - set(table.schema_arrow.names):
        raise DamagedFileError(f"row group {group} has no column {', '.join(sorted(lost))}")
    with open_file(place) as file:
        row_group = _read_footer(file)[1][group]
        wanted = [
            chunk
            for chunk in row_group.chunks
            if chunk.column in [name.encode() for name in columns]
        ]
        pages = [
            _promised(chunk)
            if is_uri(place) and chunk.unpacked <= TRUSTED_EXPANSION * chunk.packed
            else _pages(file, chunk)
            for chunk in wanted
        ]
    row_bytes = sum(page.total // max(row_group.num_rows, 1) + page.dictionary for page in pages)
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
    """Raises ValueError for a column that is there twice: nobody can tell which of them is meant."""
    for name in wanted:
        if present.count(name) > 1:
            raise ValueError(
                f"{place}: has {present.count(name)} columns {name!r}; keep one of them"
            )


def scalar_value(scalar: Any) -> Any:
    """A value for Python. What is not UTF-8 in a text becomes lone surrogates, which no text may hold."""
    if isinstance(scalar, pa.StructScalar) and scalar.is_valid:
        return {
            name: scalar_value(scalar[at])
            for at, name in enumerate(field.name for field in scalar.type)
        }
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
        array = pa.DictionaryArray.from_arrays(
            array.indices, array.dictionary.cast(PLAIN[array.type.value_type])
        )
    array.cast(PLAIN.get(array.type, array.type)).validate(full=True)


def _check_whole(file: IO[bytes], metadata: pq.FileMetaData) -> None:
    footer, groups = _read_footer(file)
    rows = [group.num_rows for group in groups]
    if max(rows, default=0) > MAX_GROUP_ROWS:
        raise DamagedFileError(f"a row group promises {max(rows)} rows, more than {MAX_GROUP_ROWS}")
    if sum(rows) != metadata.num_rows or min(rows, default=0) < 0:
        raise DamagedFileError(
            f"its footer promises {metadata.num_rows} rows, and its row groups hold {sum(rows)}"
        )

    end = len(MAGIC)
    for group in groups:
        for chunk in [chunk for chunk in group.chunks if chunk.packed]:
            end = max(end, chunk.start + chunk.packed)
            if chunk.start < len(MAGIC) or chunk.packed < 0 or end > footer:
                raise DamagedFileError("its footer promises row groups that are not there")

    # Indexes of pages and Bloom filters may lie behind the rows, another file in front of them.
    if (at := _find(file, 2 * MAGIC, footer - end + 2 * len(MAGIC))) >= 0 and end < footer:
        raise DamagedFileError(
            f"its first {at + 4} bytes are a file of their own; cut it there and read both"
        )


def _read_footer(file: IO[bytes]) -> tuple[int, list[_Group]]:
    """Where the footer is, and what it says of row groups. A damaged one ends the process if pyarrow is asked."""
    size = file.seek(0, 2)
    file.seek(size - 8)
    footer = size - 8 - int.from_bytes(file.read(4), "little")
    file.seek(max(footer, 0))
    return footer, _parse_footer(file.read(size - 8 - footer))


@lru_cache(maxsize=4)  # the row groups of a file are read one by one, and each time its footer is
def _parse_footer(data: bytes) -> list[_Group]:
    groups = _Thrift(data).struct().get(4, [])
    try:
        return [_Group(group[3], [_chunk(column[3]) for column in group[1]]) for group in groups]
    except (KeyError, TypeError, IndexError, AttributeError):
        raise DamagedFileError("its footer is damaged") from None


def _chunk(column: dict[int, Any]) -> _Chunk:
    """Some writers note 0 where there is no dictionary, and -1 where there are no values."""
    dictionary, data = column.get(11, 0), column[9]
    start = min((at for at in (dictionary, data) if at > 0), default=0)
    has_dictionary = dictionary > 0 or DELTA_BYTE_ARRAY in column.get(2, [])
    return _Chunk(column[3][0], start, has_dictionary, column[7], column[6])


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


def _promised(chunk: _Chunk) -> Pages:
    return Pages(chunk.unpacked, chunk.unpacked if chunk.has_dictionary else 0)


def _pages(file: IO[bytes], chunk: _Chunk) -> Pages:
    """Add up the headers of all pages of a column. Raises DamagedFileError for a page that takes too much."""
    at, end = chunk.start, chunk.start + chunk.packed
    total = dictionary = 0
    while at < end:
        file.seek(at)
        header = _Thrift(file.read(min(HEADER_BYTES, end - at)))
        found = header.struct()
        kind, unpacked, packed = (found.get(number, -1) for number in (1, 2, 3))
        if (
            not all(isinstance(value, int) for value in (kind, unpacked, packed))
            or min(unpacked, packed) < 0
        ):
            raise DamagedFileError("the header of a page is damaged")
        at += header.at + packed
        if at > end:
            raise DamagedFileError("a page goes on behind the end of its column")

        is_bomb = unpacked > FREE_PAGE_BYTES and unpacked > MAX_PAGE_EXPANSION * packed
        if is_bomb or unpacked > MAX_PAGE_BYTES:
            raise DamagedFileError(f"a page of {packed} bytes unpacks to {unpacked}")
        total += unpacked
        repeats = kind == DICTIONARY_PAGE or _encoding(found) == DELTA_BYTE_ARRAY
        dictionary = max(dictionary, unpacked if repeats else 0)
    return Pages(total, dictionary)


def _encoding(header: dict[int, Any]) -> Any:
    """How the values of a page are written, of the first or the second version."""
    for data_page, encoding in ((5, 2), (8, 4)):
        if isinstance(found := header.get(data_page), dict):
            return found.get(encoding)
    return None


# Thrift's compact protocol, as far as footers and headers of pages need it.
STOP, TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, _, STRUCT = range(13)
DICTIONARY_PAGE = 2
DELTA_BYTE_ARRAY = 7
MAX_DEPTH = 16


class _Thrift:
    """A struct at the beginning of some bytes; `at` is where it ends."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self) -> dict[int, Any]:
        """The fields by their numbers. Raises DamagedFileError."""
        try:
            return self._struct(MAX_DEPTH)
        except IndexError:
            raise DamagedFileError("a header or the footer is damaged") from None

    def _struct(self, depth: int) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != STOP:
            number = number + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            fields[number] = kind == TRUE if kind in (TRUE, FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (I16, I32, I64):
            return self._signed()
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind in (BYTE, TRUE, FALSE):
            return self._byte()
        if kind == DOUBLE:
            return self._bytes(8)
        if kind == STRUCT and depth:
            return self._struct(depth - 1)
        if kind in (LIST, SET) and depth:
            head = self._byte()
            number = head >> 4 if head >> 4 < 15 else self._varint()
            return [self._value(head & 15, depth - 1) for _ in range(number)]
        raise DamagedFileError("a header or the footer is damaged")

    def _bytes(self, number: int) -> bytes:
        start = self.at
        self.at += number
        return self.data[start : self.at]

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
                raise DamagedFileError("a header or the footer is damaged")

    def _signed(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
