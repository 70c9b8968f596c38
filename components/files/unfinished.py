"""Unfinished work: what a run keeps so that the next one can go on, until it is finished or somebody removes it.

    PLACE/lock                  held by the run that is at work in PLACE
    PLACE/NAME/                 the work of one run; NAME is a hash of everything that decides its result
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
SAYS = "Work of a run that has not ended. `python -m flows.runs` lists such folders, and removes those that you name.\n"
# what is counted in a folder
PROGRESS = {"done/*.json": "files done", "facts/task-*.parquet": "pieces checked"}
CHECKPOINTS = "step-*"
UNITS = ((86400, "days"), (3600, "hours"), (60, "minutes"))
NOT_ENTERED = (".git", ".venv", "node_modules")
DVC_CACHE = (".dvc", "cache")


class Work(NamedTuple):
    """What a run has left."""

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
    """The folder of the run called `name`, new or as it left it; what other runs left is listed, and stays."""
    folder = place / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text(SAYS, encoding="utf-8")
    remove_discarded(place)

    others = [it for it in works_in(place) if it.folder != folder]
    if others:
        lines = [
            f"{place}: unfinished work of other runs is kept:",
            *(f"  {describe(it)}" for it in others),
        ]
        print(
            "\n".join([*lines, "  python -m flows.runs discard FOLDER removes it"]),
            file=sys.stderr,
            flush=True,
        )
    return folder


def leave(place: Path) -> None:
    """Remove the place of unfinished work if nothing but our lock is left in it; call it while holding that."""
    lock = place / LOCK
    if [path.name for path in place.iterdir()] == [LOCK] and lock.stat().st_size == 0:
        lock.unlink()
        with suppress(OSError):  # somebody has just put a file there
            place.rmdir()


def works_in(place: Path) -> list[Work]:
    """What runs left in a place, by name."""
    return [
        _look_at(marker.parent)
        for marker in sorted(place.glob(f"*/{MARKER}"))
        if is_work(marker.parent)
    ]


def find_works(root: Path) -> Iterator[Work]:
    """All unfinished work below a folder; hidden folders are looked into, for the training's state lies in one."""
    for folder, folders, names in os.walk(root):
        if MARKER in names and is_work(Path(folder)):
            yield _look_at(Path(folder))
            folders.clear()
        is_cache = Path(folder).parts[-2:] == DVC_CACHE
        folders[:] = sorted(name for name in folders if name not in NOT_ENTERED and not is_cache)


def is_work(folder: Path) -> bool:
    """Whether a run has made this folder; a file of the marker's name may be anybody's."""
    try:
        return not folder.is_symlink() and (folder / MARKER).read_bytes() == SAYS.encode()
    except OSError:
        return False


def describe(work: Work) -> str:
    """A line about it: where, how far, how large, how old."""
    size = f"{work.num_bytes / 1e6:,.1f} MB"
    return f"{work.folder}: {work.progress}, {size}, changed {_age(time.time() - work.changed)} ago"


def discard(folder: Path) -> None:
    """Remove a folder; a kill in the middle leaves none of that name with half its files."""
    trash = folder.with_name(f".{folder.name}.{TRASH}")
    shutil.rmtree(trash, ignore_errors=True)
    folder.rename(trash)
    shutil.rmtree(trash)


def remove_discarded(place: Path) -> None:
    """Go on with what was being discarded when a run was killed."""
    for trash in place.glob(f".*.{TRASH}"):
        shutil.rmtree(trash, ignore_errors=True)


def _look_at(folder: Path) -> Work:
    statuses = [folder.stat()]
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a run may be at work here
            statuses.append(path.lstat())
    return Work(
        folder,
        _progress(folder),
        sum(it.st_size for it in statuses[1:]),
        max(it.st_mtime for it in statuses),
    )


def _progress(folder: Path) -> str:
    checkpoints = sorted(folder.glob(CHECKPOINTS))
    if checkpoints:
        return f"step {int(checkpoints[-1].name.removeprefix('step-'))}"
    counts = {unit: len(list(folder.glob(pattern))) for pattern, unit in PROGRESS.items()}
    return next(
        (f"{number} {unit}" for unit, number in counts.items() if number), "nothing finished"
    )


def _age(seconds: float) -> str:
    return next(
        (f"{seconds / unit:.0f} {name}" for unit, name in UNITS if seconds >= unit),
        f"{seconds:.0f} seconds",
    )
