"""Hashes of the contents of files: the same after `touch`, a checkout, a stash or a copy."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.files.atomic import sha256_of, write_whole

State = tuple[int, int, int, int]  # bytes, times of change of content and of the inode in ns, inode
Known = dict[str, tuple[State, str]]  # path -> what it was, and its SHA-256 then
NUM_READERS = 8
SAID_BYTES = 10_000_000_000  # ten seconds of a fast disk
SETTLED_NS = 2_000_000_000  # a younger file may change once more without its times telling


def contents_sha256(roots: Sequence[Path], memory: Path) -> str:
    """Return the SHA-256 of the names and contents of all files in some folders.

    Hidden files do not count, nor do times and paths above a root. `memory`: a file of hashes, so
    that what has not changed is read once; a file is taken for unchanged if its size, both its
    times and its inode are as they were. It only saves time: without it the result is the same.
    Raises OSError when a file cannot be read.
    """
    names, paths = [], []
    for number, root in enumerate(roots):
        for path in files(root):
            names.append(f"{number}/{path.relative_to(root)}")
            paths.append(path)

    # Only what has changed since the last time is read.
    known = _read(memory)
    states = [_state(path) for path in paths]
    _say_how_much(paths, states, known)
    with ThreadPoolExecutor(NUM_READERS, "hash") as pool:
        hashes = list(pool.map(lambda path, state: _look_up(path, state, known), paths, states))
    _remember(known, paths, states, hashes, memory)

    listing = list(zip(names, hashes, strict=True))
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def files(root: Path) -> Iterator[Path]:
    """Yield the files below a folder, always in the same order, or the file itself.

    Folders behind links are entered too, but once.
    """
    if not root.is_dir():
        yield root
        return

    seen: set[Path] = set()  # a link may lead upwards
    for folder, folders, names in os.walk(root, onerror=_fail, followlinks=True):
        place = Path(folder).resolve()
        if place in seen:
            folders.clear()
            continue
        seen.add(place)

        # `os.walk` enters what is left in the list, in its order.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder, name)


def _fail(error: OSError) -> None:
    raise error


def _state(path: Path) -> State:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _say_how_much(paths: Sequence[Path], states: Sequence[State], known: Known) -> None:
    """Print how many bytes are to be read, if that takes a while."""
    unknown = 0
    for path, state in zip(paths, states, strict=True):
        if str(path) not in known or known[str(path)][0] != state:
            unknown += state[0]
    if unknown > SAID_BYTES:
        size = f"{unknown / 1e9:,.0f} GB"
        print(f"{size} of inputs are read once, to tell this run from others", flush=True)


def _look_up(path: Path, state: State, known: Known) -> str:
    remembered, sha256 = known.get(str(path), (None, ""))
    return sha256 if remembered == state else sha256_of(path)


def _read(memory: Path) -> Known:
    try:
        known: Known = {}
        for path, size, changed, moved, inode, sha256 in json.loads(memory.read_bytes()):
            known[path] = ((size, changed, moved, inode), sha256)
        return known
    except (OSError, ValueError, TypeError):  # not there, or damaged
        return {}


def _remember(
    known: Known,
    paths: Sequence[Path],
    states: Sequence[State],
    hashes: Sequence[str],
    memory: Path,
) -> None:
    """Keep the hashes of files that have not changed for a while, nor since they were looked at."""
    now = time.time_ns()
    for path, state, sha256 in zip(paths, states, hashes, strict=True):
        known.pop(str(path), None)
        if max(state[1:3]) < now - SETTLED_NS and _state(path) == state:
            known[str(path)] = (state, sha256)

    rows = [(path, *state, sha256) for path, (state, sha256) in known.items()]
    write_whole(memory, lambda aside: aside.write_text(json.dumps(rows), encoding="utf-8"))
