"""Webdataset shards (KEY.jpg, KEY.txt, KEY.json), as img2dataset writes CC3M; read member by member, never unpacked.

A file is read to its last byte, as `tar --ignore-zeros` does: archives behind one another count as
one. Headers are parsed here, block by block with Python's own parser of a block: `tarfile` follows
what a header claims (names and records of any length, sizes below zero, maps of holes), and what
that costs differs between versions of Python.
"""

import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, Literal, NamedTuple

from components.files.storage import (
    PICTURE_EXTENSIONS,
    is_storage_fault,
    message,
    name_of,
    open_file,
    printable,
)
from components.files.unpacking import (
    CHUNK,
    DamagedFileError,
    PlainReader,
    UnpackingReader,
    open_unpacked,
)

TarReason = Literal[
    "unreadable_shard",  # one sample that stands for the lost rest of the shard
    "empty_shard",  # one sample that stands for an archive of nothing
    "unsafe_key",
    # a picture whose name goes on behind the first dot: its key would be that of others
    "dotted_name",
    "duplicate_member",
    "non_contiguous_key",
    "not_a_file",
    "file_too_large",
]
SHARD_ERRORS = (DamagedFileError, tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)
TEXT_EXTENSIONS = ("txt", "json")

BLOCK = tarfile.BLOCKSIZE
MAX_KEY_BYTES = 4096  # a path of Linux is no longer
# of one header of names and attributes; a macOS attribute has some 100 KB
MAX_EXTENSION_BYTES = 1 << 20
MAX_EXTENSIONS = 8  # such headers before a member
MAX_MEMBER_BYTES = 1 << 60  # what a header may claim
# Where old GNU headers say that blocks of a map of holes follow.
MORE_OF_THE_MAP, MORE_OF_A_BLOCK_OF_THE_MAP = 482, 504
LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
RECORDS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)


class Problem(NamedTuple):
    """Why a sample cannot be used; `detail` is for people."""

    reason: TarReason
    detail: str


@dataclass
class ShardSample:
    """The members of one key of a webdataset shard, by extension in lower case."""

    key: str  # of a sample with the problem unsafe_key: printed, shortened
    members: dict[str, bytes] = field(default_factory=dict)
    problem: Problem | None = None


class Member(NamedTuple):
    """What the headers of a member say."""

    name: str  # what is not UTF-8 is there as lone surrogates
    kind: Literal["file", "folder", "sparse file", "other"]
    num_bytes: int  # that follow in the archive


def read_shard(place: str, max_member_bytes: int) -> Iterator[ShardSample]:
    """The samples of one tar, in order; one that is cut or damaged keeps what came before and ends with a problem.

    Every picture is in a sample, of which the problem names it. Raises OSError when the disk or the
    network fails: what can be read in a minute is not lost.
    """
    name = printable(name_of(place))
    samples = _Samples(max_member_bytes)
    fault = None
    try:
        with open_file(place) as file:
            archive = _Archive(file)
            while (member := archive.next_member()) is not None:
                yield from samples.add(member, archive)
    except SHARD_ERRORS as error:
        if is_storage_fault(error):
            raise
        fault = str(error) if isinstance(error, DamagedFileError | EOFError) else message(error)

    yield from samples.finish()
    if fault is not None:
        yield ShardSample(name, {}, Problem("unreadable_shard", f"{name}: {fault}"))
    elif not samples.num_found:
        yield ShardSample(name, {}, Problem("empty_shard", f"{name}: an archive of nothing"))


def read_keys(place: str) -> Iterator[str]:
    """The keys of the samples of a tar, from its headers alone; of one that is damaged, those before the damage."""
    last = None
    with suppress(*SHARD_ERRORS), open_file(place) as file:
        archive = _Archive(file)
        while (member := archive.next_member()) is not None:
            key = split_member_name(member.name)[0]
            if member.kind != "folder" and not is_hidden(member.name) and key != last:
                yield key
                last = key


def is_hidden(name: str) -> bool:
    """What macOS puts beside every file (`._x.jpg`), and other files whose names start with a dot."""
    return name.rpartition("/")[2].startswith(".")


def split_member_name(name: str) -> tuple[str, str]:
    """Webdataset's rule: the key is everything before the first dot of the last part of the name."""
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


class _Samples:
    """Members that follow one another, grouped by their keys."""

    def __init__(self, max_member_bytes: int) -> None:
        self.max_member_bytes = max_member_bytes
        self.num_found = 0  # samples
        self.seen: set[bytes] = set()  # hashes of keys
        self.key: str | None = None
        self.sample = ShardSample("")  # of `key`
        # members of the sample; pictures that were given a reject of their own
        self.num_plain = self.num_dotted = 0

    def add(self, member: Member, archive: "_Archive") -> Iterator[ShardSample]:
        """Read a member into its sample; yields the sample before it, if that is complete."""
        if member.kind == "folder" or is_hidden(member.name):
            return
        key, extension = split_member_name(member.name)
        if key != self.key:
            yield from self.finish()
            self.key, self.sample = key, _start_sample(key, self.seen)

        if "." in extension and extension.rpartition(".")[2] in PICTURE_EXTENSIONS:
            self.num_dotted += 1
            self.num_found += 1
            yield _dotted_picture(member.name, key)
            return
        self.num_plain += "." not in extension
        _add_member(self.sample, archive, member, extension, self.max_member_bytes)

    def finish(self) -> Iterator[ShardSample]:
        """The last sample, unless the pictures of dotted names are all there is to say about it."""
        if self.key is not None and (self.num_plain or not self.num_dotted):
            self.num_found += 1
            yield self.sample
        self.key, self.num_plain, self.num_dotted = None, 0, 0


def _start_sample(key: str, seen: set[bytes]) -> ShardSample:
    shown = printable(key)
    sample = ShardSample(shown)
    num_bytes, parts = len(shown.encode()), PurePosixPath(key).parts
    digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=16).digest()
    if num_bytes > MAX_KEY_BYTES:
        sample.key = shown[:100]
        sample.problem = Problem(
            "unsafe_key", f"{sample.key!r}…: {num_bytes} bytes, more than {MAX_KEY_BYTES}"
        )
    elif digest in seen:
        sample.problem = Problem("non_contiguous_key", f"{shown!r} came earlier in the shard")
    elif not key or key.startswith("/") or ".." in parts or not key.isprintable():
        sample.problem = Problem("unsafe_key", f"{shown!r}")
    seen.add(digest)
    return sample


def _dotted_picture(name: str, key: str) -> ShardSample:
    """A sample for a picture that webdataset's rule would put under a key which is not its own."""
    shown, key = printable(name)[:MAX_KEY_BYTES], printable(key)[:100]
    detail = f"{shown[:200]}: its key would be what stands before the first dot, {key!r}; rename it"
    return ShardSample(shown, {}, Problem("dotted_name", detail))


def _add_member(
    sample: ShardSample, archive: "_Archive", member: Member, extension: str, max_member_bytes: int
) -> None:
    """Read one member into its sample; the first problem of a sample is the one that counts."""
    problem = None
    name = printable(member.name)[:MAX_KEY_BYTES]
    if member.kind != "file":
        how = (
            "a sparse file; pack the archive without --sparse"
            if member.kind == "sparse file"
            else "no file"
        )
        problem = Problem("not_a_file", f"{name}: {how}")
    elif member.num_bytes > max_member_bytes:
        problem = Problem("file_too_large", f"{name}: {member.num_bytes} bytes")
    elif extension in sample.members:
        problem = Problem("duplicate_member", name)
    elif extension in (
        *PICTURE_EXTENSIONS,
        *TEXT_EXTENSIONS,
    ):  # anything else, pickles above all, is never read
        sample.members[extension] = archive.read_content()
    sample.problem = sample.problem or problem


class _Archive:
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
        """What the next headers say; None at the proper end of the file."""
        self.reader.skip(self.num_unread + self.padding)
        self.num_unread = self.padding = 0
        header = self._next_header()
        if header is None:
            return None

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
        """The bytes of the current member."""
        parts = []
        while self.num_unread:
            part = self.reader.read(min(self.num_unread, CHUNK))
            if not part:
                raise EOFError("the archive ends inside a member: it was cut")
            parts.append(part)
            self.num_unread -= len(part)
        return b"".join(parts)

    def _next_header(self) -> tarfile.TarInfo | None:
        """The header behind any zeros; None at the proper end of the file."""
        is_after_zeros = False
        while True:
            block = self.reader.read(BLOCK)
            if block.count(0) < len(block):
                break
            if not block:
                if self.is_first and not is_after_zeros:
                    raise DamagedFileError("the file is empty")
                if not is_after_zeros:
                    raise DamagedFileError("the archive has no end mark: it was cut or is damaged")
                return None
            is_after_zeros = True

        try:
            return self._parse_header(block)
        except tarfile.TarError:
            if self.is_first and not is_after_zeros:
                raise DamagedFileError("the file is no tar") from None
            if is_after_zeros:
                raise DamagedFileError(
                    "behind the end of the archive there are bytes that are no archive"
                ) from None
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
        path = records.get(b"GNU.sparse.name", records.get(b"path"))
        name = (
            _decode(path) if path is not None else header.name if long_name is None else long_name
        )
        is_folder = header.isdir() or (header.type == tarfile.AREGTYPE and name.endswith("/"))
        is_sparse = header.type == tarfile.GNUTYPE_SPARSE or any(
            key.startswith(b"GNU.sparse.") for key in records
        )
        has_content = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
        while self.has_map:
            block = self.reader.read(BLOCK)
            if len(block) < BLOCK:
                raise EOFError("the archive ends inside a header: it was cut")
            self.has_map = bool(block[MORE_OF_A_BLOCK_OF_THE_MAP])

        num_bytes = _size_of(header, records) if has_content else 0
        self.num_unread, self.padding = num_bytes, -num_bytes % BLOCK
        kind: Literal["file", "folder", "sparse file", "other"] = "other"
        if is_folder:
            kind = "folder"
        elif is_sparse:
            kind = "sparse file"
        elif header.isreg():
            kind = "file"
        return Member(name.rstrip("/") if is_folder else name, kind, num_bytes)


def _size_of(header: tarfile.TarInfo, records: dict[bytes, bytes]) -> int:
    """Bytes of a member; a record counts more than the header, which has room for 8 GiB only."""
    record = records.get(b"size")
    if record is not None and not (record.isdigit() and len(record) <= len(str(MAX_MEMBER_BYTES))):
        raise DamagedFileError(f"a header says that {record[:20]!r} bytes follow")
    num_bytes = header.size if record is None else int(record)
    if not 0 <= num_bytes <= MAX_MEMBER_BYTES:
        raise DamagedFileError(f"a header says that {num_bytes} bytes follow")
    return num_bytes


def _parse_records(content: bytes) -> dict[bytes, bytes]:
    """The records of a PAX header, each `LENGTH KEY=VALUE` and a line feed, where the length is that of all of it."""
    records = {}
    at = 0
    num_bytes = len(content.rstrip(b"\0"))
    while at < num_bytes:
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
