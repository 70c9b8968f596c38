"""Webdataset shards (KEY.jpg, KEY.txt, KEY.json), as img2dataset writes CC3M.

They are read member by member, and never unpacked.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from components.files.storage import (
    PICTURE_EXTENSIONS,
    is_storage_fault,
    message,
    name_of,
    open_file,
    printable,
)
from components.files.tar_archive import TAR_ERRORS, Member, TarArchive
from components.files.unpacking import DamagedFileError

TarReason = Literal[
    "unreadable_shard",  # one sample that stands for the lost rest of the shard
    "empty_shard",  # one sample that stands for an archive of nothing
    "unsafe_key",
    # a picture whose name goes on behind the first dot: its key could be another picture's, too
    "dotted_name",
    "duplicate_member",
    "non_contiguous_key",
    "not_a_file",
    "file_too_large",
]
TEXT_EXTENSIONS = ("txt", "json")
MAX_KEY_BYTES = 4096  # a path of Linux is no longer
SHOWN_KEY_CHARACTERS = 100


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


def read_shard(place: str, max_member_bytes: int) -> Iterator[ShardSample]:
    """Yield the samples of one tar, in order.

    A tar that is cut or damaged keeps what came before and ends with a problem. Every picture is in
    a sample, or its problem names it. Raises OSError when the disk or the network fails: what can
    be read in a minute is not lost.
    """
    name = printable(name_of(place))
    samples = _Samples(max_member_bytes)
    fault = None
    try:
        with open_file(place) as file:
            archive = TarArchive(file)
            while (member := archive.next_member()) is not None:
                yield from samples.add(member, archive)
    except TAR_ERRORS as error:
        if is_storage_fault(error):
            raise
        fault = str(error) if isinstance(error, DamagedFileError | EOFError) else message(error)

    # A shard that ends too early, or holds nothing, must not pass for one with fewer rows.
    yield from samples.finish()
    if fault is not None:
        yield ShardSample(name, {}, Problem("unreadable_shard", f"{name}: {fault}"))
    elif not samples.num_found:
        yield ShardSample(name, {}, Problem("empty_shard", f"{name}: an archive of nothing"))


def read_keys(place: str) -> Iterator[str]:
    """Yield the keys of the samples of a tar, from its headers alone, as far as these are whole."""
    last = None
    with suppress(*TAR_ERRORS), open_file(place) as file:
        archive = TarArchive(file)
        while (member := archive.next_member()) is not None:
            key = split_member_name(member.name)[0]
            # The members of a sample follow one another.
            if member.kind != "folder" and not is_hidden(member.name) and key != last:
                yield key
                last = key


def is_hidden(name: str) -> bool:
    """Return whether a name starts with a dot, as what macOS puts beside every file (`._x.jpg`)."""
    return name.rpartition("/")[2].startswith(".")


def split_member_name(name: str) -> tuple[str, str]:
    """Return key and extension: webdataset cuts the last part of a name at its first dot."""
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

    def add(self, member: Member, archive: TarArchive) -> Iterator[ShardSample]:
        """Read a member into its sample; yield the sample before it, if that is complete."""
        if member.kind == "folder" or is_hidden(member.name):
            return

        # Another key begins another sample.
        key, extension = split_member_name(member.name)
        if key != self.key:
            yield from self.finish()
            self.key, self.sample = key, _start_sample(key, self.seen)

        # No sample may lose a picture to a dot in its name: it becomes a reject of its own.
        if "." in extension and extension.rpartition(".")[2] in PICTURE_EXTENSIONS:
            self.num_dotted += 1
            self.num_found += 1
            yield _dotted_picture(member.name, key)
            return

        self.num_plain += "." not in extension
        _add_member(self.sample, archive, member, extension, self.max_member_bytes)

    def finish(self) -> Iterator[ShardSample]:
        """Yield the last sample, unless it has nothing but pictures of dotted names."""
        if self.key is not None and (self.num_plain or not self.num_dotted):
            self.num_found += 1
            yield self.sample
        self.key, self.num_plain, self.num_dotted = None, 0, 0


def _start_sample(key: str, seen: set[bytes]) -> ShardSample:
    """Return an empty sample, with a problem if its key cannot be used; note the key in `seen`."""
    shown = printable(key)
    sample = ShardSample(shown)
    num_bytes, parts = len(shown.encode()), PurePosixPath(key).parts

    # of a fixed size: a shard may have millions of keys
    digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=16).digest()

    # A key becomes an id: it must be short, printable, and there once.
    if num_bytes > MAX_KEY_BYTES:
        sample.key = shown[:SHOWN_KEY_CHARACTERS]
        detail = f"{sample.key!r}…: {num_bytes} bytes, more than {MAX_KEY_BYTES}"
        sample.problem = Problem("unsafe_key", detail)
    elif digest in seen:
        sample.problem = Problem("non_contiguous_key", f"{shown!r} came earlier in the shard")
    elif not key or key.startswith("/") or ".." in parts or not key.isprintable():
        sample.problem = Problem("unsafe_key", f"{shown!r}")

    seen.add(digest)
    return sample


def _dotted_picture(name: str, key: str) -> ShardSample:
    """Return a sample for a picture that webdataset's rule would put under the key of others."""
    shown, key = printable(name)[:MAX_KEY_BYTES], printable(key)[:SHOWN_KEY_CHARACTERS]
    detail = f"{shown[:200]}: its key would be what stands before the first dot, {key!r}; rename it"
    return ShardSample(shown, {}, Problem("dotted_name", detail))


def _add_member(
    sample: ShardSample, archive: TarArchive, member: Member, extension: str, max_member_bytes: int
) -> None:
    """Read one member into its sample; the first problem of a sample is the one that counts."""
    problem = None
    name = printable(member.name)[:MAX_KEY_BYTES]
    if member.kind == "sparse file":
        detail = f"{name}: a sparse file; pack the archive without --sparse"
        problem = Problem("not_a_file", detail)
    elif member.kind != "file":
        problem = Problem("not_a_file", f"{name}: no file")
    elif member.num_bytes > max_member_bytes:
        problem = Problem("file_too_large", f"{name}: {member.num_bytes} bytes")
    elif extension in sample.members:
        problem = Problem("duplicate_member", name)
    # anything else, pickles above all, is never read
    elif extension in (*PICTURE_EXTENSIONS, *TEXT_EXTENSIONS):
        sample.members[extension] = archive.read_content()

    sample.problem = sample.problem or problem
