"""Tar archives of others: a walk over the members of all archives of a file, packed or not.

A file is read to its last byte, as `tar --ignore-zeros` does: archives behind one another count as
one. Headers are read here, block by block with Python's own parser of a block: `tarfile` follows
what a header claims (names and records of any length, sizes below zero, maps of holes), and what
that costs differs between versions of Python.
"""

import lzma
import tarfile
import zlib
from typing import IO, Literal, NamedTuple

from components.files.unpacking import (
    CHUNK,
    DamagedFileError,
    PlainReader,
    UnpackingReader,
    open_unpacked,
)

# What reading a damaged archive raises.
TAR_ERRORS = (DamagedFileError, tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)

BLOCK = tarfile.BLOCKSIZE
# of one header of names and attributes; a macOS attribute has some 100 KB
MAX_EXTENSION_BYTES = 1 << 20
MAX_EXTENSIONS = 8  # such headers before a member
MAX_MEMBER_BYTES = 1 << 60  # what a header may claim
# Where old GNU headers say that blocks of a map of holes follow.
MORE_OF_THE_MAP, MORE_OF_A_BLOCK_OF_THE_MAP = 482, 504
LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
RECORDS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)

MemberKind = Literal["file", "folder", "sparse file", "other"]


class Member(NamedTuple):
    """A member, as its headers describe it."""

    name: str  # what is not UTF-8 is there as lone surrogates
    kind: MemberKind
    num_bytes: int  # that follow in the archive


class TarArchive:
    """The members of all archives of a file, in order.

    Raises DamagedFileError, tarfile.TarError, EOFError and what the decompressors raise, at the
    first byte that is neither a member nor padding, and at the end of a file that has no end mark.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.reader: PlainReader | UnpackingReader = open_unpacked(file)
        self.num_unread = 0  # bytes of the current member
        self.padding = 0  # bytes behind it
        self.is_first = True
        self.has_map = False  # of holes, behind the header

    def next_member(self) -> Member | None:
        """Return the member that the next headers describe; None at the proper end of the file."""
        # The content of the last member may not have been asked for.
        self.reader.skip(self.num_unread + self.padding)
        self.num_unread = self.padding = 0
        header = self._next_header()
        if header is None:
            return None

        # Headers of long names and of records stand before the one of the member itself.
        long_name: str | None = None
        records: dict[bytes, bytes] = {}
        for _ in range(MAX_EXTENSIONS):
            if header.type not in (*LONG_NAMES, *RECORDS):
                return self._begin_member(header, long_name, records)
            content = self._read_extension(header)
            if header.type == tarfile.GNUTYPE_LONGNAME:
                long_name = _decode(content.partition(b"\0")[0])
            elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                records = _parse_records(content)
            header = self._parse_header(self.reader.read(BLOCK))
        raise DamagedFileError(f"more than {MAX_EXTENSIONS} headers before one member")

    def read_content(self) -> bytes:
        """Return the bytes of the current member."""
        parts = []
        while self.num_unread:
            part = self.reader.read(min(self.num_unread, CHUNK))
            if not part:
                raise EOFError("the archive ends inside a member: it was cut")
            parts.append(part)
            self.num_unread -= len(part)
        return b"".join(parts)

    def _next_header(self) -> tarfile.TarInfo | None:
        """Return the header behind any zeros; None at the proper end of the file."""
        # Zeros are the end mark of an archive; another may follow.
        is_after_zeros = False
        while True:
            block = self.reader.read(BLOCK)
            if block.count(0) < len(block):
                break
            if not block:
                if is_after_zeros:
                    return None
                if self.is_first:
                    raise DamagedFileError("the file is empty")
                raise DamagedFileError("the archive has no end mark: it was cut or is damaged")
            is_after_zeros = True

        # A block that is no header means another thing at each place of a file.
        try:
            return self._parse_header(block)
        except tarfile.TarError:
            if is_after_zeros:
                raise DamagedFileError(
                    "behind the end of the archive there are bytes that are no archive"
                ) from None
            if self.is_first:
                raise DamagedFileError("the file is no tar") from None
            raise
        finally:
            self.is_first = False

    def _parse_header(self, block: bytes) -> tarfile.TarInfo:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        self.has_map = header.type == tarfile.GNUTYPE_SPARSE and bool(block[MORE_OF_THE_MAP])
        return header

    def _read_extension(self, header: tarfile.TarInfo) -> bytes:
        if not 0 <= header.size <= MAX_EXTENSION_BYTES:
            raise DamagedFileError(
                f"a header of {header.size} bytes, more than {MAX_EXTENSION_BYTES}"
            )
        content = self.reader.read(header.size)
        if len(content) < header.size:
            raise EOFError("the archive ends inside a header: it was cut")
        self.reader.skip(-header.size % BLOCK)
        return content

    def _begin_member(
        self, header: tarfile.TarInfo, long_name: str | None, records: dict[bytes, bytes]
    ) -> Member:
        """Return the member of a header, and stand before its content."""
        name = _name_of(header, long_name, records)
        kind = _kind_of(header, name, records)

        # The map of the holes of a sparse file may go on over several blocks.
        while self.has_map:
            block = self.reader.read(BLOCK)
            if len(block) < BLOCK:
                raise EOFError("the archive ends inside a header: it was cut")
            self.has_map = bool(block[MORE_OF_A_BLOCK_OF_THE_MAP])

        # Types that nobody knows have a content, too.
        has_content = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
        num_bytes = _size_of(header, records) if has_content else 0
        self.num_unread, self.padding = num_bytes, -num_bytes % BLOCK
        return Member(name.rstrip("/") if kind == "folder" else name, kind, num_bytes)


def _name_of(header: tarfile.TarInfo, long_name: str | None, records: dict[bytes, bytes]) -> str:
    path = records.get(b"GNU.sparse.name", records.get(b"path"))
    if path is not None:
        return _decode(path)
    return header.name if long_name is None else long_name


def _kind_of(header: tarfile.TarInfo, name: str, records: dict[bytes, bytes]) -> MemberKind:
    if header.isdir() or (header.type == tarfile.AREGTYPE and name.endswith("/")):
        return "folder"
    if header.type == tarfile.GNUTYPE_SPARSE:
        return "sparse file"
    if any(key.startswith(b"GNU.sparse.") for key in records):
        return "sparse file"
    return "file" if header.isreg() else "other"


def _size_of(header: tarfile.TarInfo, records: dict[bytes, bytes]) -> int:
    """Return the bytes of a member; a record counts before the header, which ends at 8 GiB."""
    record = records.get(b"size")
    if record is not None and not (record.isdigit() and len(record) <= len(str(MAX_MEMBER_BYTES))):
        raise DamagedFileError(f"a header says that {record[:20]!r} bytes follow")
    num_bytes = header.size if record is None else int(record)
    if not 0 <= num_bytes <= MAX_MEMBER_BYTES:
        raise DamagedFileError(f"a header says that {num_bytes} bytes follow")
    return num_bytes


def _parse_records(content: bytes) -> dict[bytes, bytes]:
    """Return the records of a PAX header.

    Each is `LENGTH KEY=VALUE` and a line feed, where the length is that of all of it.
    """
    records = {}
    at = 0
    num_bytes = len(content.rstrip(b"\0"))
    while at < num_bytes:
        # the length, which says where the record ends
        blank = content.find(b" ", at, at + 20)
        length = content[at:blank] if blank > 0 else b""
        end = at + int(length) if length.isdigit() else 0

        key, is_record, value = content[blank + 1 : end - 1].partition(b"=")
        if not (blank < end <= len(content) and is_record and content[end - 1 : end] == b"\n"):
            raise DamagedFileError("a header of records (PAX) is damaged")
        records[key] = value
        at = end
    return records


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
