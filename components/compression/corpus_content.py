"""What the pictures of a corpus hold, as one hash, and whether it is still what a finished store was made of.

Names and sizes are not enough: a picture of the same size, with an older time, behind a list, is
another picture. The workers hash the bytes that they read, and the manifest holds the hash of all;
it is the same on every machine. To run again into a finished store compares it: at once if the
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
from components.store.store_work import shard_name

CONTENT = "content_sha256"  # in the manifest's description of the corpus
READERS = 8  # shards that are read at a time
_NOTES, _STATE = "content", "state.json"


class FileStates(NamedTuple):
    """The files of a corpus as they were at one moment, as hashes."""

    times: str  # sizes and times of change
    exact: str | None  # also of what no program can set back; None: nobody can say for this corpus


def picture_digest(image_id: str, content: bytes | UnreadablePictureError) -> bytes:
    """SHA-256 of what a picture is, or of why it cannot be read."""
    if isinstance(content, UnreadablePictureError):
        content = json.dumps([content.reason, content.detail]).encode()
    return hashlib.sha256(json.dumps(image_id).encode() + hashlib.sha256(content).digest()).digest()


def note_content(work: Path, shard: int, digests: Iterable[bytes]) -> None:
    """Note in the work folder of a run what the pictures of a shard were, in their order."""
    note = _note(work, shard)
    note.parent.mkdir(exist_ok=True)
    write_json(note, {CONTENT: _hash_of(digests)}, work / "aside")


def has_note(work: Path, shard: int) -> bool:
    """Whether it is known what a finished shard was made of."""
    return _note(work, shard).is_file()


def noted_content(work: Path, shards: Sequence[Shard]) -> str:
    """The hash of a whole corpus from the notes of its shards."""
    return _joined(json.loads(_note(work, shard.number).read_bytes())[CONTENT] for shard in shards)


def read_content(corpus: Corpus, shards: Sequence[Shard], max_bytes: int) -> str:
    """The hash of a whole corpus from its pictures, as compressing it would note it. Raises OSError."""
    read = partial(_read_shard, corpus, max_bytes)
    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as threads:
        return _joined(threads.map(read, shards))


def look_at_files(corpus: Corpus) -> FileStates:
    """The states of all files of a corpus, of a list also of the pictures that it names."""
    times, exact = hashlib.sha256(), hashlib.sha256()
    is_known = True
    for name in _file_names(corpus):
        place = join(corpus.root, name)
        if is_uri(place):
            # asking a bucket ten million times takes longer than reading a list
            is_known &= corpus.kind != "list"
        else:
            size, changed, *others = _look(place)
            times.update(json.dumps([name, size, changed]).encode())
            exact.update(json.dumps([name, size, changed, *others]).encode())
    exact.update(json.dumps(corpus.files).encode())
    return FileStates(times.hexdigest(), exact.hexdigest() if is_known else None)


def note_states(work: Path, states: FileStates) -> FileStates:
    """The states when the work in a folder began, noted by the first of the runs that worked in it."""
    note = work / _STATE
    if not note.is_file():
        write_json(note, states._asdict(), work / "aside")
    return FileStates(**json.loads(note.read_bytes()))


def remember(output: Path, states: FileStates) -> None:
    """Note beside a store which states its corpus had; without the note everything is right too, only slower."""
    if states.exact is None:
        return
    content = {"manifest_sha256": sha256_of(output / MANIFEST), "states_sha256": states.exact}
    with suppress(OSError):  # a folder that only the store may be written to
        write_whole(
            _beside(output), lambda aside: aside.write_text(json.dumps(content), encoding="utf-8")
        )


def is_remembered(output: Path, states: FileStates) -> bool:
    """Whether no file of a corpus has been touched since it was made into the store `output`."""
    if states.exact is None:
        return False
    try:
        noted = json.loads(_beside(output).read_bytes())
    except (OSError, ValueError):
        return False
    return noted == {"manifest_sha256": sha256_of(output / MANIFEST), "states_sha256": states.exact}


def _beside(output: Path) -> Path:
    return output.with_name(f".{output.name}.fwd2bot.json")


def _file_names(corpus: Corpus) -> Iterator[str]:
    """What is read: the files of the corpus and, in a list, the places."""
    yield from (file.name for file in corpus.files)
    if corpus.kind == "list":
        for batch in corpus.entries.select([FILE]).to_batches(ROWS_AT_ONCE):
            yield from batch[FILE].to_pylist()


def _look(place: str) -> tuple[int, ...]:
    """Bytes, time of change, and what no program can set back; of a file that is not there, nothing."""
    try:
        status = os.stat(place)
    except (OSError, ValueError):  # also a name that no file can have
        return (-1, 0)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _read_shard(corpus: Corpus, max_bytes: int, shard: Shard) -> str:
    pictures = read_pictures(corpus.kind, corpus.root, shard, max_bytes)
    return _hash_of(picture_digest(picture.image_id, _load(picture)) for picture in pictures)


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
