"""Outputs: one is absent, empty, or what the same job wrote before; all else is left alone.

A folder that a job has written holds a list of its files (components/files/written.py); what is not
on it is named, and the job ends before it has begun. A file has no room for a list and is known by
what it holds.

One process at a time writes an output. Its lock, `.NAME.fwd2bot.lock` beside the output, ends with
the process; the file goes with the lock, but for a kill. What is being written lies in
`NAME.partial`, and becomes the output by one rename.
"""

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from components.files.atomic import put_in_place
from components.files.locks import locked
from components.files.permissions import Modes, set_modes
from components.files.storage import is_uri
from components.files.written import (
    LIST,
    LIST_ASIDE,
    OutputError,
    Written,
    check_folder,
    files_in,
    name_some,
    read_list,
    remove_list,
    remove_written,
    write_list,
)

PARTIAL = ".partial"  # ends the name of what is written beside an output
MAX_JSON_BYTES = 1 << 26  # of a file of scores; ours take kilobytes


@contextmanager
def new_folder(job: str, output: Path, apart_from: Iterable[Path | str] = ()) -> Iterator[Path]:
    """Yield an empty folder, which becomes `output` in place of what `job` wrote there before.

    `apart_from`: inputs and other outputs of the run; none may hold the output or lie in it. Raises
    OutputError or BusyError before anything is changed. After an error what was written stays in
    `NAME.partial` until the next run.
    """
    output = checked_place(output, apart_from)
    check_replaceable(output)
    with only_writer(output):
        _end_replacing(output)
        check_folder(output, job)
        aside = _empty_aside(output, job)

        # The list and the folder were made just now, with the permissions of whoever runs this.
        modes = Modes((aside / LIST).stat().st_mode & 0o666, stat.S_IMODE(aside.stat().st_mode))
        try:
            yield aside
        except BaseException:
            # An empty folder is of no use to anybody.
            if not files_in(aside):
                remove_list(aside)
                aside.rmdir()
            raise

        write_list(aside, Written(job, files_in(aside)))
        set_modes(aside, modes)
        _replace(output, job, aside)


@contextmanager
def new_file(
    output: Path, is_ours: Callable[[Path], bool], apart_from: Iterable[Path | str] = ()
) -> Iterator[Path]:
    """Yield a path to write a file at, which becomes `output` in place of an earlier result.

    `is_ours`: whether a file is such a result. An empty file is replaced, too, and a link, which
    is not followed. Raises OutputError and BusyError as `new_folder`.
    """
    check_apart(output, apart_from)
    output = output.parent.resolve() / output.name
    with only_writer(output):
        check_file(output, is_ours)
        aside = output.with_name(f".{uuid4().hex}.partial")  # a name of any length has one
        try:
            yield aside

            # Somebody may have put a file there since.
            check_file(output, is_ours)
            put_in_place(aside, output)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def growing_folder(
    job: str,
    output: Path,
    patterns: Iterable[str],
    apart_from: Iterable[Path | str] = (),
    is_older: Callable[[Path], bool] = lambda _: False,
) -> Iterator[None]:
    """Empty a folder for files that match `patterns`, which others look at while they are written.

    `is_older`: whether a folder without a list was written by a version that made none. Raises
    OutputError and BusyError as `new_folder`.
    """
    output = checked_place(output, apart_from)
    growing = Written(job, {}, tuple(patterns))
    with only_writer(output):
        # A folder of an older version gets the list that it lacks.
        if output.exists() and read_list(output) is None and is_older(output):
            write_list(output, growing)
        check_folder(output, job, growing.growing)

        # The list says that the folder is ours before there is any file in it.
        remove_written(output, growing.growing)
        output.mkdir(exist_ok=True)
        write_list(output, growing)

        try:
            yield
        finally:
            # From now on a file of another size is somebody else's.
            write_list(output, Written(job, growing.held(files_in(output))))


@contextmanager
def only_writer(output: Path) -> Iterator[None]:
    """Hold the lock of an output; make the folders above it. Raises BusyError."""
    lock = output.with_name(f".{output.name}.fwd2bot.lock")
    busy = f"{output}: another run is writing it; wait until it has ended, or choose another place"
    with locked(lock, busy):
        try:
            yield
        finally:
            with suppress(FileNotFoundError):
                # ours are empty; it goes while it is held, so that no other holds it for nothing
                if not lock.stat().st_size:
                    lock.unlink()


def checked_place(output: Path, apart_from: Iterable[Path | str] = ()) -> Path:
    """Return the path at which a folder is really written, behind links. Raises OutputError."""
    check_apart(output, apart_from)

    if output.is_symlink() and not output.exists():
        raise OutputError(
            f"{output}: is a link to {os.readlink(output)}, which does not exist; remove the link"
        )

    real = output.resolve()
    if real.name.endswith(PARTIAL):
        raise OutputError(
            f"{output}: ends in {PARTIAL}, as what is not finished does; choose another name"
        )
    if not real.name:
        raise OutputError(f"{output}: is no folder for an output; choose another")
    if output.exists() and not output.is_dir():
        raise OutputError(
            f"{output}: is a file, and a folder is to be written; choose another name"
        )
    return real


def check_replaceable(output: Path) -> None:
    """Raise OutputError for a mount point, which no rename can replace."""
    if output.is_mount():
        raise OutputError(
            f"{output}: is a mount point, and the output appears by a rename; choose a folder in it"
        )


def check_apart(output: Path, others: Iterable[Path | str]) -> None:
    """Raise OutputError when an output is one of `others`, holds it, or lies in it, by any name."""
    ours, *above_ours = _identities(output)
    for other in others:
        if is_uri(str(other)):
            continue

        # the place itself, then the folders above either of the two
        its, *above_its = _identities(Path(other))
        if ours & its:
            raise OutputError(
                f"{output}: is also {other}, which this run needs; choose another place"
            )
        if any(its & place for place in above_ours):
            raise OutputError(
                f"{output}: lies in {other}, which this run needs; choose another place"
            )
        if any(ours & place for place in above_its):
            raise OutputError(
                f"{output}: holds {other}, which this run needs; choose another place"
            )


def check_file(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Raise OutputError for anything but a file that is ours or empty, or nothing at all."""
    if path.is_symlink() and not path.exists():
        raise OutputError(
            f"{path}: is a link to {os.readlink(path)}, which does not exist; remove the link"
        )
    if not path.exists():
        return

    if not path.is_file():
        raise OutputError(f"{path}: is no file; choose another name")
    if path.stat().st_size and not is_ours(path):
        raise OutputError(
            f"{path}: exists, and is no earlier result of this job; "
            "rename it, or choose another name"
        )


def json_with(*keys: str) -> Callable[[Path], bool]:
    """Return a test of whether a file is a JSON object with these keys."""

    def is_ours(path: Path) -> bool:
        found = _json_keys(path)
        return found is not None and found.issuperset(keys)

    return is_ours


def json_of(keys: Collection[str]) -> Callable[[Path], bool]:
    """Return a test of whether a file is a JSON object with no other keys than these."""

    def is_ours(path: Path) -> bool:
        found = _json_keys(path)
        return found is not None and found.issubset(keys)

    return is_ours


def _json_keys(path: Path) -> set[str] | None:
    """Return the keys of a JSON object; None for a file that is none."""
    try:
        found = json.loads(path.read_bytes()) if path.stat().st_size <= MAX_JSON_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    return set(found) if isinstance(found, dict) else None


def _empty_aside(output: Path, job: str) -> Path:
    """Make the folder in which an output is written, with an empty list of files in it."""
    aside = output.with_name(f"{output.name}{PARTIAL}")
    if aside.is_symlink() or (aside.exists() and not aside.is_dir()):
        raise OutputError(f"{aside}: is in the way of what {job} is to write there; move it")

    # Only what a killed run of the same job left is removed.
    if aside.exists() and any(path.name != LIST_ASIDE for path in aside.iterdir()):
        written = read_list(aside)
        if written is None or written.job != job:
            raise OutputError(f"{aside}: is in the way, and {job} did not write it; move it")
        if written.files:  # it was finished: what has come to it since can be told
            check_folder(aside, job)
        shutil.rmtree(aside)

    aside.mkdir(exist_ok=True)
    write_list(aside, Written(job, {}))
    return aside


def _replace(output: Path, job: str, aside: Path) -> None:
    """Put a finished folder in the place of an earlier output, unless something else came there."""
    try:
        check_folder(output, job)
        if output.exists():
            # in one piece, so that a kill leaves no half of it under its name
            os.rename(output, _old_place(output))
        os.rename(aside, output)
    except OutputError as error:
        raise OutputError(f"{error}; what {job} has written is in {aside}") from None
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise OutputError(
            f"{output}: something was put there just now; what {job} has written is in {aside}"
        ) from None

    _end_replacing(output)


def _end_replacing(output: Path) -> None:
    """Remove the earlier output if there is a new one; else put it back: a kill came in between.

    Raises OutputError for what somebody has put into it at the last moment.
    """
    old = _old_place(output)
    if not old.exists():
        return
    if not output.exists():
        os.rename(old, output)
        return

    # Only listed files go; a folder that is not empty then holds something of somebody else.
    remove_written(old)
    if left := files_in(old):
        raise OutputError(
            f"{old}: holds {name_some(left)} out of the earlier {output.name}; move that elsewhere"
        )
    old.rmdir()


def _old_place(output: Path) -> Path:
    """Return the path of an earlier output while a new one takes its place."""
    return output.with_name(f".{output.name}.fwd2bot.old")


def _identities(path: Path) -> list[set[object]]:
    """Return the real path and the inode of a path and of each folder above it, nearest first."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError):
        raise OutputError(f"{path}: is a link into itself; remove it") from None

    # A folder that is mounted twice has two paths, but one inode.
    found: list[set[object]] = []
    for place in (real, *real.parents):
        found.append({place})
        with suppress(OSError):
            status = place.stat()
            found[-1].add((status.st_dev, status.st_ino))
    return found
