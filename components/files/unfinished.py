"""Unfinished work: a run keeps it so that the next one can go on, until it is done or removed.

    PLACE/lock                  held by the run that is at work in PLACE
    PLACE/NAME/                 the work of one run; NAME is a hash of all that decides its result
    PLACE/NAME/UNFINISHED.txt   tells such a folder from anybody else's

A run uses the folder of its own name and leaves the others alone. It lists them when it starts;
they are removed by name and by hand, with `python -m flows.runs`.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from components.files.locks import locked

MARKER, LOCK = "UNFINISHED.txt", "lock"
TRASH = "discarded-by-fwd2bot"  # ends the name of what is being removed
SAYS = (
    "Work of a run that has not ended. `python -m flows.runs` lists such folders, "
    "and removes those that you name.\n"
)
# what is counted in a folder
PROGRESS = {"done/*.json": "files done", "facts/task-*.parquet": "pieces checked"}
CHECKPOINTS = "step-*"
UNITS = ((86400, "days"), (3600, "hours"), (60, "minutes"))
NOT_ENTERED = (".git", ".venv", "node_modules")
DVC_CACHE = (".dvc", "cache")


class Work(NamedTuple):
    """A folder that a run has left."""

    folder: Path
    progress: str  # how far it was
    num_bytes: int
    changed: float  # seconds since the epoch


@contextmanager
def hold(place: Path) -> Iterator[None]:
    """Hold the lock of a folder of unfinished work, which is made if missing. Raises BusyError."""
    busy = f"{place}: another run is at work there; wait for it, or stop it"
    with locked(place / LOCK, busy):
        yield


def open_work(place: Path, name: str) -> Path:
    """Return the folder of the run `name`, which may hold earlier work; list other runs' work."""
    folder = place / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text(SAYS, encoding="utf-8")
    remove_discarded(place)

    # Nothing of another run is removed: its owner may want to go on.
    lines = []
    for work in works_in(place):
        if work.folder != folder:
            lines.append(f"  {describe(work)}")
    if lines:
        lines.insert(0, f"{place}: unfinished work of other runs is kept:")
        lines.append("  python -m flows.runs discard FOLDER removes it")
        print("\n".join(lines), file=sys.stderr, flush=True)
    return folder


def leave(place: Path) -> None:
    """Remove a place of unfinished work if nothing but its lock, which we hold, is left in it."""
    lock = place / LOCK
    if os.listdir(place) == [LOCK] and lock.stat().st_size == 0:
        lock.unlink()
        with suppress(OSError):  # somebody has just put a file there
            place.rmdir()


def works_in(place: Path) -> list[Work]:
    """Return the work that runs left in a place, sorted by name."""
    works = []
    for marker in sorted(place.glob(f"*/{MARKER}")):
        if is_work(marker.parent):
            works.append(_measure(marker.parent))
    return works


def find_works(root: Path) -> Iterator[Work]:
    """Yield all unfinished work below a folder, in hidden folders too, where trainings keep it."""
    for folder, folders, names in os.walk(root):
        if MARKER in names and is_work(Path(folder)):
            yield _measure(Path(folder))
            folders.clear()

        # Caches and environments have many files and no work of ours.
        is_cache = Path(folder).parts[-2:] == DVC_CACHE
        folders[:] = sorted(name for name in folders if name not in NOT_ENTERED and not is_cache)


def is_work(folder: Path) -> bool:
    """Return whether a run has made a folder; a file of the marker's name may be anybody's."""
    try:
        return not folder.is_symlink() and (folder / MARKER).read_bytes() == SAYS.encode()
    except OSError:
        return False


def describe(work: Work) -> str:
    """Return a line about work: where, how far, how large, how old."""
    size = f"{work.num_bytes / 1e6:,.1f} MB"
    return f"{work.folder}: {work.progress}, {size}, changed {_age(time.time() - work.changed)} ago"


def discard(folder: Path) -> None:
    """Remove a folder; a kill in the middle leaves no folder of its name with half the files."""
    trash = folder.with_name(f".{folder.name}.{TRASH}")
    shutil.rmtree(trash, ignore_errors=True)
    folder.rename(trash)
    shutil.rmtree(trash)


def remove_discarded(place: Path) -> None:
    """Remove folders that `discard` had renamed when its process was killed."""
    for trash in place.glob(f".*.{TRASH}"):
        shutil.rmtree(trash, ignore_errors=True)


def _measure(folder: Path) -> Work:
    """Return the work in a folder, with its progress, size and last change."""
    num_bytes, changed = 0, folder.stat().st_mtime
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a run may be at work here
            status = path.lstat()
            num_bytes += status.st_size
            changed = max(changed, status.st_mtime)
    return Work(folder, _progress(folder), num_bytes, changed)


def _progress(folder: Path) -> str:
    checkpoints = sorted(folder.glob(CHECKPOINTS))
    if checkpoints:
        return f"step {int(checkpoints[-1].name.removeprefix('step-'))}"
    for pattern, unit in PROGRESS.items():
        if number := len(list(folder.glob(pattern))):
            return f"{number} {unit}"
    return "nothing finished"


def _age(seconds: float) -> str:
    for unit, name in UNITS:
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"
