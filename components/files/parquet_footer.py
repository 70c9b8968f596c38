"""Parquet footers and page headers of others, read before pyarrow reads them.

A damaged footer ends the process if pyarrow is asked, and the sizes in a footer are only a promise:
what a page unpacks to is in its own header. One value that is repeated, or of zeros, takes
gigabytes from a file of two kilobytes.
"""

from functools import lru_cache
from typing import IO, Any, NamedTuple

from components.files.unpacking import DamagedFileError

READ_BYTES = 1 << 20  # of a file at once
MAX_PAGE_BYTES = 1 << 30  # unpacked; writers put up to 1024 values into one page
FREE_PAGE_BYTES = 1 << 26  # such a page may be packed as closely as can be
MAX_PAGE_EXPANSION = 100  # of a larger one; pictures are packed already
# what old pyarrow wrote at most; each row that is missing becomes a reject
MAX_GROUP_ROWS = 1 << 26
HEADER_BYTES = 1 << 16  # of a page, with statistics
MAGIC = b"PAR1"

DICTIONARY_PAGE = 2
DELTA_BYTE_ARRAY = 7


class Pages(NamedTuple):
    """The bytes that the pages of a column of a row group unpack to."""

    total: int
    # each row may be all of it; a page of values that share parts with the row before counts too
    dictionary: int


class Chunk(NamedTuple):
    """A column of a row group, as the footer tells."""

    column: bytes  # the first name of its path
    start: int  # byte
    has_dictionary: bool  # or values that repeat parts of the values before
    packed: int  # bytes, with the headers of the pages
    unpacked: int  # bytes; a promise


class Group(NamedTuple):
    """A row group, as the footer tells."""

    num_rows: int
    chunks: list[Chunk]


def read_footer(file: IO[bytes]) -> tuple[int, list[Group]]:
    """Return the position of the footer, and its row groups. Raises DamagedFileError."""
    size = file.seek(0, 2)
    file.seek(size - 8)
    footer = size - 8 - int.from_bytes(file.read(4), "little")
    file.seek(max(footer, 0))
    return footer, _parse_footer(file.read(size - 8 - footer))


def check_whole(file: IO[bytes], num_rows: int) -> None:
    """Raise DamagedFileError unless the footer tells of all bytes of a file and of all its rows."""
    footer, groups = read_footer(file)

    # all rows, in row groups of a size that can be
    rows = [group.num_rows for group in groups]
    if max(rows, default=0) > MAX_GROUP_ROWS:
        raise DamagedFileError(f"a row group promises {max(rows)} rows, more than {MAX_GROUP_ROWS}")
    if sum(rows) != num_rows or min(rows, default=0) < 0:
        raise DamagedFileError(
            f"its footer promises {num_rows} rows, and its row groups hold {sum(rows)}"
        )

    # all bytes: every column lies between the mark at the beginning and the footer
    end = len(MAGIC)
    for group in groups:
        for chunk in group.chunks:
            if not chunk.packed:
                continue
            end = max(end, chunk.start + chunk.packed)
            if chunk.start < len(MAGIC) or chunk.packed < 0 or end > footer:
                raise DamagedFileError("its footer promises row groups that are not there")

    # Indexes of pages and Bloom filters may lie behind the rows, another file in front of them.
    if (at := _find(file, 2 * MAGIC, footer - end + 2 * len(MAGIC))) >= 0 and end < footer:
        raise DamagedFileError(
            f"its first {at + 4} bytes are a file of their own; cut it there and read both"
        )


def read_page_sizes(file: IO[bytes], chunk: Chunk) -> Pages:
    """Add up the page headers of a column. Raises DamagedFileError for a page of too much."""
    at, end = chunk.start, chunk.start + chunk.packed
    total = dictionary = 0
    while at < end:
        # the header of a page: its kind, and its bytes unpacked and packed
        file.seek(at)
        header = _Thrift(file.read(min(HEADER_BYTES, end - at)))
        found = header.struct()
        kind, unpacked, packed = found.get(1, -1), found.get(2, -1), found.get(3, -1)
        are_numbers = all(isinstance(value, int) for value in (kind, unpacked, packed))
        if not are_numbers or min(unpacked, packed) < 0:
            raise DamagedFileError("the header of a page is damaged")

        at += header.at + packed
        if at > end:
            raise DamagedFileError("a page goes on behind the end of its column")

        is_bomb = unpacked > FREE_PAGE_BYTES and unpacked > MAX_PAGE_EXPANSION * packed
        if is_bomb or unpacked > MAX_PAGE_BYTES:
            raise DamagedFileError(f"a page of {packed} bytes unpacks to {unpacked}")

        total += unpacked
        if kind == DICTIONARY_PAGE or _encoding(found) == DELTA_BYTE_ARRAY:
            dictionary = max(dictionary, unpacked)
    return Pages(total, dictionary)


@lru_cache(maxsize=4)  # the row groups of a file are read one by one, and each time its footer is
def _parse_footer(data: bytes) -> list[Group]:
    found = []
    try:
        for group in _Thrift(data).struct().get(4, []):
            chunks = [_chunk(column[3]) for column in group[1]]
            found.append(Group(group[3], chunks))
    except (KeyError, TypeError, IndexError, AttributeError):
        raise DamagedFileError("its footer is damaged") from None
    return found


def _chunk(column: dict[int, Any]) -> Chunk:
    # Some writers note 0 where there is no dictionary, and -1 where there are no values.
    dictionary, data = column.get(11, 0), column[9]
    offsets = [at for at in (dictionary, data) if at > 0]
    start = min(offsets, default=0)
    has_dictionary = dictionary > 0 or DELTA_BYTE_ARRAY in column.get(2, [])
    return Chunk(column[3][0], start, has_dictionary, column[7], column[6])


def _find(file: IO[bytes], wanted: bytes, stop: int) -> int:
    """Return where some bytes first are before `stop`; -1 if they are not there."""
    at = 0
    while at < stop:
        file.seek(at)
        found = file.read(min(READ_BYTES, stop - at)).find(wanted)
        if found >= 0:
            return at + found
        at += READ_BYTES - len(wanted)
    return -1


def _encoding(header: dict[int, Any]) -> Any:
    """Return how the values of a page are written, of the first or the second version."""
    for data_page, encoding in ((5, 2), (8, 4)):
        if isinstance(found := header.get(data_page), dict):
            return found.get(encoding)
    return None


# Thrift's compact protocol, as far as footers and headers of pages need it.
STOP, TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, _, STRUCT = range(13)
MAX_DEPTH = 16


class _Thrift:
    """A reader of a struct at the beginning of some bytes; `at` is where it ends."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self) -> dict[int, Any]:
        """Return the fields by their numbers. Raises DamagedFileError."""
        try:
            return self._struct(MAX_DEPTH)
        except IndexError:
            raise DamagedFileError("a header or the footer is damaged") from None

    def _struct(self, depth: int) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != STOP:
            # The number counts on from the field before, or is written out; a truth value is in
            # the kind itself.
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
            # Long lists write their length behind the byte of the kind.
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
