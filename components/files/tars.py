"""Webdataset shards (KEY.jpg, KEY.txt, KEY.json), as img2dataset writes CC3M; read member by member, never unpacked."""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from components.files.storage import PICTURE_EXTENSIONS, is_storage_fault, message, name_of, open_file

TarReason = Literal[
    "unreadable_shard",  # one sample that stands for the lost rest of the shard
    "empty_shard",  # one sample that stands for an archive of nothing
    "unsafe_key",
    "duplicate_member",
    "non_contiguous_key",
    "not_a_file",
    "file_too_large",
]
TAR_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)


class Problem(NamedTuple):
    """Why a sample cannot be used; `detail` is for people."""

    reason: TarReason
    detail: str


@dataclass
class ShardSample:
    """The members of one key of a webdataset shard, by extension in lower case."""

    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    problem: Problem | None = None


def read_shard(place: str, max_member_bytes: int) -> Iterator[ShardSample]:
    """The samples of one tar, in order; one that is cut or damaged keeps what came before and ends with a problem.

    Raises OSError when the disk or the network fails: what can be read in a minute is not lost.
    """
    sample: ShardSample | None = None
    seen: set[str] = set()
    fault = None
    try:
        with open_file(place) as file, tarfile.open(fileobj=file, mode="r:*") as archive:
            for member in archive:
                if member.isdir() or is_hidden(member.name):
                    continue
                key, extension = split_member_name(member.name)
                if sample is None or key != sample.key:
                    if sample is not None:
                        yield sample
                    sample = _start_sample(key, seen)
                _add_member(sample, archive, member, extension, max_member_bytes)
            fault = None if _ends_properly(archive) else "the archive has no end mark: it was cut or is damaged"
    except TAR_ERRORS as error:
        if is_storage_fault(error):
            raise
        fault = message(error)
    if sample is not None:
        yield sample
    if fault is not None:
        yield ShardSample(name_of(place), {}, Problem("unreadable_shard", f"{name_of(place)}: {fault}"))
    elif sample is None:
        yield ShardSample(name_of(place), {}, Problem("empty_shard", f"{name_of(place)}: an archive of nothing"))


def is_hidden(name: str) -> bool:
    """What macOS puts beside every file (`._x.jpg`), and other files whose names start with a dot."""
    return name.rpartition("/")[2].startswith(".")


def split_member_name(name: str) -> tuple[str, str]:
    """Webdataset's rule: the key is everything before the first dot of the last part of the name."""
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


def _start_sample(key: str, seen: set[str]) -> ShardSample:
    sample = ShardSample(key)
    parts = PurePosixPath(key).parts
    if key in seen:
        sample.problem = Problem("non_contiguous_key", f"{key!r} came earlier in the shard")
    elif not key or key.startswith("/") or ".." in parts or not key.isprintable():
        sample.problem = Problem("unsafe_key", f"{key!r}")
    seen.add(key)
    return sample


def _add_member(
    sample: ShardSample, archive: tarfile.TarFile, member: tarfile.TarInfo, extension: str, max_member_bytes: int
) -> None:
    """Read one member into its sample; the first problem of a sample is the one that counts."""
    problem = None
    if not member.isfile():
        problem = Problem("not_a_file", member.name)
    elif member.size > max_member_bytes:
        problem = Problem("file_too_large", f"{member.name}: {member.size} bytes")
    elif extension in sample.members:
        problem = Problem("duplicate_member", member.name)
    elif extension in (*PICTURE_EXTENSIONS, "txt", "json"):  # anything else, pickles above all, is never read
        content = archive.extractfile(member)
        sample.members[extension] = content.read() if content else b""
    sample.problem = sample.problem or problem


def _ends_properly(archive: tarfile.TarFile) -> bool:
    """Python stops without an error at a damaged header and at the end of a file that was cut between two members."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    block = archive.fileobj.read(tarfile.BLOCKSIZE)
    return bool(block) and not any(block)
