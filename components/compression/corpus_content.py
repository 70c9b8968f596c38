"""The content of a corpus: one hash over all pictures, compared with that of a finished store.

Names and sizes are not enough: a picture of the same size, with an older time, behind a list, is
another picture. The workers hash the bytes that they read, and the manifest holds the hash of all;
it is the same on every machine. A run into a finished store compares this hash: at once if the
files have the states that were noted beside the store when it was made (times of change and inodes,
which no program can set back), else by reading the pictures.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from components.compression.corpus import FILE, ROWS_AT_ONCE, Corpus, Picture, Shard
from components.compression.corpus_sources import read_pictures
from components.files.atomic import sha256_of, write_whole
from components.files.storage import is_uri, join
from components.store.manifest import MANIFEST, write_json
from components.store.rejects import UnreadablePictureError
from components.store.unfinished_store import shard_name

CONTENT = "content_sha256"  # in the manifest's description of the corpus
READERS = 8  # shards that are read at a time
_NOTES, _STATE = "content", "state.json"


class FileStates(NamedTuple):
    """Hashes over the states of a corpus's files at one moment."""

    times: str  # sizes and times of change
    exact: str | None  # also of what no program can set back; None: unknown for this corpus


def picture_digest(image_id: str, content: bytes | UnreadablePictureError) -> bytes:
    """Hash the bytes of a picture, or why it cannot be read (SHA-256)."""
    if isinstance(content, UnreadablePictureError):
        content = json.dumps([content.reason, content.detail]).encode()
    return hashlib.sha256(json.dumps(image_id).encode() + hashlib.sha256(content).digest()).digest()


def note_content(work: Path, shard: int, digests: Iterable[bytes]) -> None:
    """Note the hash of a shard's pictures, in their order, in the work folder of a run."""
    note = _note(work, shard)
    note.parent.mkdir(exist_ok=True)
    write_json(note, {CONTENT: _hash_of(digests)}, work / "aside")


def has_note(work: Path, shard: int) -> bool:
    """Return whether the hash of a shard's pictures was noted."""
    return _note(work, shard).is_file()


def noted_content(work: Path, shards: Sequence[Shard]) -> str:
    """Join the notes of all shards to the hash of the corpus."""
    hashes = []
    for shard in shards:
        note = json.loads(_note(work, shard.number).read_bytes())
        hashes.append(note[CONTENT])
    return _joined(hashes)


def read_content(
    corpus: Corpus, shards: Sequence[Shard], max_bytes: int, allowed_roots: Sequence[str] = ()
) -> str:
    """Read all pictures for the hash of the corpus. Raises OSError."""
    read = partial(_read_shard, corpus, max_bytes, allowed_roots)
    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as threads:
        return _joined(threads.map(read, shards))


def look_at_files(corpus: Corpus) -> FileStates:
    """Hash the states of all files of a corpus, for a list also of the pictures that it names."""
    times, exact = hashlib.sha256(), hashlib.sha256()
    is_known = True

    for name in _file_names(corpus):
        place = join(corpus.root, name)
        if is_uri(place):
            # Asking a bucket ten million times takes longer than reading a list.
            is_known &= corpus.kind != "list"
        else:
            size, changed, *others = _look(place)
            times.update(json.dumps([name, size, changed]).encode())
            exact.update(json.dumps([name, size, changed, *others]).encode())

    exact.update(json.dumps(corpus.files).encode())
    return FileStates(times.hexdigest(), exact.hexdigest() if is_known else None)


def note_states(work: Path, states: FileStates) -> FileStates:
    """Note the states when work in a folder begins; return those of the first run in it."""
    note = work / _STATE
    if not note.is_file():
        write_json(note, states._asdict(), work / "aside")
    return FileStates(**json.loads(note.read_bytes()))


def remember(output: Path, states: FileStates) -> None:
    """Note beside a store which states its corpus had; the note only saves time."""
    if states.exact is None:
        return
    text = json.dumps(_state_note(output, states))

    # Some folders allow nothing but the store to be written.
    with suppress(OSError):
        write_whole(_beside(output), lambda aside: aside.write_text(text, encoding="utf-8"))


def is_remembered(output: Path, states: FileStates) -> bool:
    """Return whether no file of a corpus was touched since the store `output` was made of it."""
    if states.exact is None:
        return False
    try:
        noted = json.loads(_beside(output).read_bytes())
    except (OSError, ValueError):
        return False
    return noted == _state_note(output, states)


def _state_note(output: Path, states: FileStates) -> dict[str, str | None]:
    """Return the content of the note beside a store."""
    return {"manifest_sha256": sha256_of(output / MANIFEST), "states_sha256": states.exact}


def _beside(output: Path) -> Path:
    return output.with_name(f".{output.name}.fwd2bot.json")


def _file_names(corpus: Corpus) -> Iterator[str]:
    """Yield the names of the files of the corpus; for a list, also the places that it names."""
    for file in corpus.files:
        yield file.name
    if corpus.kind == "list":
        for batch in corpus.entries.select([FILE]).to_batches(ROWS_AT_ONCE):
            yield from batch[FILE].to_pylist()


def _look(place: str) -> tuple[int, ...]:
    """Return bytes, time of change, and what no program can set back; (-1, 0) for no file."""
    try:
        status = os.stat(place)
    except (OSError, ValueError):  # also a name that no file can have
        return (-1, 0)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _read_shard(corpus: Corpus, max_bytes: int, allowed_roots: Sequence[str], shard: Shard) -> str:
    pictures = read_pictures(corpus.kind, corpus.root, shard, max_bytes, allowed_roots)

    # One picture at a time is in memory.
    digests = (picture_digest(picture.image_id, _load(picture)) for picture in pictures)
    return _hash_of(digests)


def _load(picture: Picture) -> bytes | UnreadablePictureError:
    try:
        return picture.load()
    except UnreadablePictureError as error:
        return error


def _hash_of(digests: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in digests:
        digest.update(part)
    return digest.hexdigest()


def _joined(shards: Iterable[str]) -> str:
    return hashlib.sha256("".join(shards).encode()).hexdigest()


def _note(work: Path, shard: int) -> Path:
    return work / _NOTES / f"{shard_name(shard)}.json"
