"""Readers: raw files in the formats people download -> entries, one per input row.

- instruction data: a JSON array in LLaVA format, or the same records as JSON lines;
- caption pairs: webdataset tars (KEY.jpg, KEY.txt, KEY.json), read member by member and never unpacked;
- pictures: files below a root that no reference may leave.

Nothing here trusts what it reads. A fault of one row becomes an entry with a `Rejected` in it; only an instruction file
that is no JSON at all stops the stage, because then nothing says how many rows were lost.
"""

import json
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from components.curation.reasons import Reason, Rejected

PICTURE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
TAR_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error)


class Entry(NamedTuple):
    """One row of a JSON file: the parsed value, or why it cannot be read."""

    place: str  # "file:position", for people and for rows without an id of their own
    value: Any


@dataclass
class ShardSample:
    """The members of one key of a webdataset shard, by extension in lower case."""

    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    problem: Rejected | None = None


def read_entries(path: Path) -> list[Entry]:
    """All rows of a .json file (one array) or a .jsonl file (one object per line)."""
    return list(_read_lines(path)) if path.suffix == ".jsonl" else _read_array(path)


def encode_entries(entries: list[Entry]) -> str:
    """Entries as JSON text, to be sent to another process; `decode_entries` gives them back."""
    return json.dumps([[e.place, *_encode_value(e.value)] for e in entries])


def decode_entries(text: str) -> list[Entry]:
    """What `encode_entries` was given."""
    rows = json.loads(text)
    return [Entry(place, value if why is None else Rejected(Reason(why), value)) for place, value, why in rows]


def read_json(path: Path) -> Any:
    """A whole JSON file. Raises ValueError that names the byte at which it is broken."""
    text = _decode_file(path)
    try:
        return _parse(text)
    except json.JSONDecodeError as error:
        offset = len(text[: error.pos].encode("utf-8", "surrogatepass"))
        raise ValueError(f"{path}: is not JSON from byte {offset} on ({error.msg}); fetch the file again") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON: {error or type(error).__name__}; fetch the file again") from None


def read_shard(path: Path, max_member_bytes: int) -> Iterator[ShardSample]:
    """The samples of one tar, in order; one that is cut or damaged keeps what came before and ends with a problem."""
    sample: ShardSample | None = None
    seen: set[str] = set()
    fault = None
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                if member.isdir():
                    continue
                key, extension = split_member_name(member.name)
                if sample is None or key != sample.key:
                    if sample is not None:
                        yield sample
                    sample = _start_sample(key, seen)
                _add_member(sample, archive, member, extension, max_member_bytes)
            fault = None if _ends_properly(archive) else "the archive has no end mark: it was cut or is damaged"
    except TAR_ERRORS as error:
        fault = _message(error)
    if sample is not None:
        yield sample
    if fault is not None:
        yield ShardSample(path.name, {}, Rejected(Reason.UNREADABLE_SHARD, f"{path.name}: {fault}"))


def read_picture_file(root: Path, reference: str, max_file_bytes: int) -> bytes:
    """Bytes of the picture that a record refers to, relative to `root`. Raises Rejected."""
    try:
        path = (root / reference).resolve()
        if not path.is_relative_to(root.resolve()):
            raise Rejected(Reason.PATH_ESCAPES_ROOT, reference)
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise Rejected(Reason.IMAGE_MISSING, reference) from None
    except (OSError, ValueError, RuntimeError) as error:  # NUL in the name, a name too long, a loop of links
        raise Rejected(Reason.IMAGE_MISSING, f"{reference[:200]!r}: {_message(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise Rejected(Reason.NOT_A_FILE, reference)
    if status.st_size > max_file_bytes:
        raise Rejected(Reason.FILE_TOO_LARGE, f"{reference}: {status.st_size} bytes")
    return path.read_bytes()


def list_pictures(root: Path) -> list[str]:
    """Names of all files below `root`, relative to it, sorted."""
    found = [Path(folder, name) for folder, _, names in os.walk(root) for name in names]
    return sorted(path.relative_to(root).as_posix() for path in found)


def split_member_name(name: str) -> tuple[str, str]:
    """Webdataset's rule: the key is everything before the first dot of the last part of the name."""
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


def _read_array(path: Path) -> list[Entry]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise ValueError(f"{path}: holds a JSON {type(rows).__name__}, not an array of records in LLaVA format")
    return [Entry(f"{path.name}:{index}", row) for index, row in enumerate(rows)]


def _read_lines(path: Path) -> Iterator[Entry]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield Entry(f"{path.name}:{number}", parse_json(line))
        except Rejected as error:
            yield Entry(f"{path.name}:{number}", error)


def parse_json(data: bytes) -> Any:
    """A small piece of untrusted JSON. Raises Rejected."""
    try:
        return _parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Rejected(Reason.BAD_ENCODING, f"not UTF-8: {error}") from None
    except (ValueError, RecursionError) as error:
        raise Rejected(Reason.BAD_JSON, str(error) or type(error).__name__) from None


def _encode_value(value: Any) -> tuple[Any, str | None]:
    return (value.detail, value.reason.value) if isinstance(value, Rejected) else (value, None)


def _parse(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _decode_file(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 at byte {error.start}; fetch the file again") from None


def _start_sample(key: str, seen: set[str]) -> ShardSample:
    sample = ShardSample(key)
    parts = PurePosixPath(key).parts
    if key in seen:
        sample.problem = Rejected(Reason.NON_CONTIGUOUS_KEY, f"{key!r} came earlier in the shard")
    elif not key or key.startswith("/") or ".." in parts or not key.isprintable():
        sample.problem = Rejected(Reason.UNSAFE_KEY, f"{key!r}")
    seen.add(key)
    return sample


def _add_member(
    sample: ShardSample, archive: tarfile.TarFile, member: tarfile.TarInfo, extension: str, max_member_bytes: int
) -> None:
    """Read one member into its sample; the first problem of a sample is the one that counts."""
    problem = None
    if not member.isfile():
        problem = Rejected(Reason.NOT_A_FILE, member.name)
    elif member.size > max_member_bytes:
        problem = Rejected(Reason.FILE_TOO_LARGE, f"{member.name}: {member.size} bytes")
    elif extension in sample.members:
        problem = Rejected(Reason.DUPLICATE_MEMBER, member.name)
    elif extension in (*PICTURE_EXTENSIONS, "txt", "json"):  # anything else, pickles above all, is never read
        content = archive.extractfile(member)
        sample.members[extension] = content.read() if content else b""
    sample.problem = sample.problem or problem


def _message(error: Exception) -> str:
    """Without the path that operating system errors carry: it would differ from machine to machine."""
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"


def _ends_properly(archive: tarfile.TarFile) -> bool:
    """Python stops without an error at a damaged header and at the end of a file that was cut between two members."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    block = archive.fileobj.read(tarfile.BLOCKSIZE)
    return bool(block) and not any(block)
