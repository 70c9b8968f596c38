"""Who may write where: an output is absent, empty, or what the same job wrote before. Anything else is left alone.

A folder that a job has written holds `_fwd2bot.json`: the job, and every file with its size. Only
files that are listed there, and still have that size, are ever removed; anything else in the folder
is named, and the job ends before it has begun. DVC keeps the list with the folder. A file has no
room for a list and is known by what it holds.

One process at a time writes an output. Its lock, `.NAME.fwd2bot.lock` beside the output, ends with
the process; the file goes with the lock, but for a kill. What is being written lies in
`NAME.partial`, and becomes the output by one rename.
"""

import errno
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from components.files.atomic import put_in_place, write_whole
from components.files.storage import is_uri

LIST = "_fwd2bot.json"  # names that readers of Parquet folders leave out
LIST_ASIDE = f".{LIST}.partial"  # where a list is written first
PARTIAL = ".partial"  # ends the name of what is written beside an output
MAX_LIST_BYTES = 1 << 30  # a list of ten million files
MAX_JSON_BYTES = 1 << 26  # of a file of scores; ours take kilobytes
SHOWN = 3  # names in a message


class OutputError(ValueError):
    """Something that this project did not write, or somebody who writes, is in the place of an output."""


class Written(NamedTuple):
    """What a folder says of itself."""

    job: str
    files: Mapping[str, int]  # name -> bytes
    growing: tuple[str, ...] = ()  # patterns of names of files that are still written

    def holds(self, name: str, size: int) -> bool:
        """Whether a file is one of these, and nobody has changed its size since."""
        return self.files.get(name) == size or any(
            fnmatchcase(name, pattern) for pattern in self.growing
        )


@contextmanager
def new_folder(job: str, output: Path, apart_from: Iterable[Path | str] = ()) -> Iterator[Path]:
    """An empty folder to write into; what it holds at the end becomes `output`, in place of what `job` wrote before.

    `apart_from`: inputs and other outputs of the run; none may hold the output or lie in it. Raises
    OutputError before anything is changed. After an error what was written stays in `NAME.partial`
    until the next run.
    """
    output = checked_place(output, apart_from)
    check_replaceable(output)
    with only_writer(output):
        _end_replacing(output)
        check_folder(output, job)
        aside = _empty_aside(output, job)
        modes = _Modes((aside / LIST).stat().st_mode & 0o666, stat.S_IMODE(aside.stat().st_mode))
        try:
            yield aside
        except BaseException:
            _forget_if_empty(aside)
            raise
        _write_list(aside, Written(job, _files_in(aside)))
        _follow_modes(aside, modes)
        _replace(output, job, aside)


@contextmanager
def new_file(
    output: Path, is_ours: Callable[[Path], bool], apart_from: Iterable[Path | str] = ()
) -> Iterator[Path]:
    """A path to write a file at, which becomes `output` at the end; a file that is there must be `is_ours`, or empty.

    A link is replaced, not followed. Raises OutputError as `new_folder`.
    """
    check_apart(output, apart_from)
    output = output.parent.resolve() / output.name
    with only_writer(output):
        check_file(output, is_ours)
        aside = output.with_name(f".{uuid4().hex}.partial")  # a name of any length has one
        try:
            yield aside
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
    """A folder that is looked at while it is written, with files that match `patterns`; emptied of those before.

    `is_older`: whether a folder without a list was written by a version that made none. Raises
    OutputError as `new_folder`.
    """
    output = checked_place(output, apart_from)
    growing = Written(job, {}, tuple(patterns))
    with only_writer(output):
        if output.exists() and read_list(output) is None and is_older(output):
            _write_list(output, growing)
        check_folder(output, job, growing.growing)
        _remove_written(output, growing.growing)
        output.mkdir(exist_ok=True)
        _write_list(output, growing)
        try:
            yield
        finally:
            ours = {
                name: size for name, size in _files_in(output).items() if growing.holds(name, size)
            }
            _write_list(output, Written(job, ours))


@contextmanager
def only_writer(output: Path) -> Iterator[None]:
    """The lock of an output, which ends with its process; makes the folders above it.

    Raises OutputError when another process writes it.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    lock = output.with_name(f".{output.name}.fwd2bot.lock")
    descriptor = _take(lock, output)
    try:
        yield
    finally:
        if not os.fstat(descriptor).st_size:  # ours are empty
            # while it is held: whoever opened it meanwhile sees that it is gone
            lock.unlink(missing_ok=True)
        os.close(descriptor)


def checked_place(output: Path, apart_from: Iterable[Path | str] = ()) -> Path:
    """Where a folder is really written; a link to a folder is followed. Raises OutputError."""
    check_apart(output, apart_from)
    if output.is_symlink() and not output.exists():
        raise OutputError(
            f"{output}: is a link to {os.readlink(output)}, which does not exist; remove the link"
        )
    if output.resolve().name.endswith(PARTIAL):
        raise OutputError(
            f"{output}: ends in {PARTIAL}, as what is not finished does; choose another name"
        )
    if not output.resolve().name:
        raise OutputError(f"{output}: is no folder for an output; choose another")
    if output.exists() and not output.is_dir():
        raise OutputError(
            f"{output}: is a file, and a folder is to be written; choose another name"
        )
    return output.resolve()


def check_replaceable(output: Path) -> None:
    """Raises OutputError for a folder that no rename can put another in the place of."""
    if output.is_mount():
        raise OutputError(
            f"{output}: is a mount point, and the output appears by a rename; choose a folder in it"
        )


def check_apart(output: Path, others: Iterable[Path | str]) -> None:
    """Raises OutputError when an output is one of `others`, holds it, or lies in it, by whatever name."""
    places, ours = _places(output), _places(output)[:1]
    for other in others:
        if is_uri(str(other)):
            continue
        its = _places(Path(other))
        if ours[0] & its[0]:
            raise OutputError(
                f"{output}: is also {other}, which this run needs; choose another place"
            )
        if any(its[0] & place for place in places[1:]):
            raise OutputError(
                f"{output}: lies in {other}, which this run needs; choose another place"
            )
        if any(ours[0] & place for place in its[1:]):
            raise OutputError(
                f"{output}: holds {other}, which this run needs; choose another place"
            )


def check_folder(folder: Path, job: str, growing: Sequence[str] = ()) -> None:
    """Raises OutputError for a folder with anything that `job` did not write.

    `growing`: patterns of files that it may have been writing when it was killed.
    """
    if not folder.exists():
        return
    written, found = read_list(folder, growing), _files_in(folder)
    if not found and written is None and not os.path.lexists(folder / LIST):
        return
    if written is None and not found:
        raise OutputError(
            f"{folder / LIST}: cannot be read as what {job} writes; remove it, or choose another folder"
        )
    if written is None:
        raise OutputError(
            f"{folder}: holds {_some(found)}, and no {LIST} says that {job} wrote that; move or remove it, or choose "
            "another folder"
        )
    if written.job != job:
        raise OutputError(
            f"{folder}: holds what {written.job} wrote; choose another folder, or remove it"
        )
    if foreign := [name for name, size in found.items() if not written.holds(name, size)]:
        raise OutputError(
            f"{folder}: holds {_some(foreign)}, which {job} did not write or which has changed since; move that, or "
            "choose another folder"
        )


def check_file(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Raises OutputError for anything but a file that is ours or empty, or nothing at all."""
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
            f"{path}: exists, and is no earlier result of this job; rename it, or choose another name"
        )


def json_with(*keys: str) -> Callable[[Path], bool]:
    """Whether a file is a JSON object with these keys."""

    def is_ours(path: Path) -> bool:
        try:
            found = json.loads(path.read_bytes()) if path.stat().st_size <= MAX_JSON_BYTES else None
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(found, dict) and set(keys) <= found.keys()

    return is_ours


def read_list(folder: Path, growing: Sequence[str] = ()) -> Written | None:
    """What a folder says of itself; None when it says nothing, or not in our words.

    Of patterns only those of `growing` are believed: anybody may have edited the list.
    """
    path = folder / LIST
    try:
        found: Any = (
            json.loads(path.read_bytes()) if path.stat().st_size <= MAX_LIST_BYTES else None
        )
        program, job = found["written_by"].split(" ")
        files = {name: int(size) for name, size in found["files"].items()}
        believed = tuple(pattern for pattern in map(str, found["growing"]) if pattern in growing)
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None
    return Written(job, files, believed) if program == "fwd2bot" else None


def write_by_umask(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` write a file with the permissions of any file: safetensors writes for its owner alone."""
    with path.open("wb") as stream:  # made as any file is
        mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
    write(path)
    path.chmod(mode)


class _Modes(NamedTuple):
    """Permissions as the umask, or the folder above, gives them to what is made."""

    file: int
    folder: int


def _follow_modes(folder: Path, modes: _Modes) -> None:
    """Give all in a folder these permissions: libraries write weights for their owner alone."""
    for place, folders, names in os.walk(folder):
        wanted = {**dict.fromkeys(folders, modes.folder), **dict.fromkeys(names, modes.file)}
        for name, mode in wanted.items():
            path = Path(place, name)
            if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != mode:
                # written on another machine by another user, who may read it
                with suppress(PermissionError):
                    path.chmod(mode)
    folder.chmod(modes.folder)


def _files_in(folder: Path) -> dict[str, int]:
    """{name: bytes} of all that is in a folder but for the list of its files; an empty folder is a name with `/`.

    A link to a folder counts as a file.
    """
    found: dict[str, int] = {}
    for place, folders, names in os.walk(folder, onerror=_raise):
        entries = [*names, *(name for name in folders if Path(place, name).is_symlink())]
        for path in (Path(place, name) for name in entries):
            found[path.relative_to(folder).as_posix()] = _size(path)
        if not entries and not folders and Path(place) != folder:
            found[f"{Path(place).relative_to(folder).as_posix()}/"] = 0
    for name in (LIST, LIST_ASIDE):
        found.pop(name, None)
    return dict(sorted(found.items()))


def _remove_written(folder: Path, growing: Sequence[str] = ()) -> None:
    """Remove what a folder lists, and the folders that are empty then, its list last; it was checked before."""
    written = read_list(folder, growing)
    if written is None:
        return
    found = _files_in(folder)
    names = [name for name, size in found.items() if written.holds(name, size)]
    for name in names:
        if not name.endswith("/"):
            (folder / name).unlink()
    # `x`: an empty folder is emptied, too
    emptied = {parent for name in names for parent in Path(f"{name}x").parents}
    for parent in sorted(emptied - {Path()}, key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):  # somebody has put something into it just now
            (folder / parent).rmdir()
    (folder / LIST_ASIDE).unlink(missing_ok=True)
    (folder / LIST).unlink()


def _empty_aside(output: Path, job: str) -> Path:
    """The folder in which an output is written, with nothing in it but a list that says whose it is."""
    aside = output.with_name(f"{output.name}{PARTIAL}")
    if aside.is_symlink() or (aside.exists() and not aside.is_dir()):
        raise OutputError(f"{aside}: is in the way of what {job} is to write there; move it")
    if aside.exists() and any(path.name != LIST_ASIDE for path in aside.iterdir()):
        written = read_list(aside)
        if written is None or written.job != job:
            raise OutputError(f"{aside}: is in the way, and {job} did not write it; move it")
        if written.files:  # it was finished, so that it can be told what has come to it since
            check_folder(aside, job)
        shutil.rmtree(aside)  # what a killed run left
    aside.mkdir(exist_ok=True)
    _write_list(aside, Written(job, {}))
    return aside


def _forget_if_empty(aside: Path) -> None:
    if not _files_in(aside):
        for name in (LIST, LIST_ASIDE):
            (aside / name).unlink(missing_ok=True)
        aside.rmdir()


def _replace(output: Path, job: str, aside: Path) -> None:
    """Put a finished folder in the place of an earlier one; what came there while the job was at work is left alone."""
    old = _old_place(output)
    try:
        check_folder(output, job)
        if output.exists():
            os.rename(output, old)  # whole, so that a kill leaves no half of it under its name
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
    """Finish what a kill may have ended: the earlier output goes if there is a new one, and comes back if not.

    Raises OutputError for what somebody has put into it at the last moment.
    """
    old = _old_place(output)
    if not old.exists():
        return
    if not output.exists():
        os.rename(old, output)
        return
    _remove_written(old)
    if left := _files_in(old):
        raise OutputError(
            f"{old}: holds {_some(left)} out of the earlier {output.name}; move that elsewhere"
        )
    old.rmdir()


def _old_place(output: Path) -> Path:
    """Where an earlier output is while a new one takes its place."""
    return output.with_name(f".{output.name}.fwd2bot.old")


def _write_list(folder: Path, written: Written) -> None:
    content = {
        "files": written.files,
        "growing": written.growing,
        "written_by": f"fwd2bot {written.job}",
    }
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    write_whole(
        folder / LIST, lambda path: path.write_text(text, encoding="utf-8"), folder / LIST_ASIDE
    )


def _take(lock: Path, output: Path) -> int:
    """The descriptor of a locked file that is still in its place. Raises OutputError."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise OutputError(
                f"{output}: another run is writing it; wait until it has ended, or choose another place"
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(lock), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)  # its owner has just removed it


def _places(path: Path) -> list[set[object]]:
    """What a path and each folder above it can be known by: its name without links, and its number on the disk."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError):
        raise OutputError(f"{path}: is a link into itself; remove it") from None
    return [{place, *_number(place)} for place in (real, *real.parents)]


def _number(path: Path) -> tuple[tuple[int, int], ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return ((status.st_dev, status.st_ino),)


def _size(path: Path) -> int:
    """Bytes of a file or of what a link leads to; -1 for a link that leads nowhere, or to a folder."""
    try:
        status = path.stat()
    except OSError:
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def _some(names: Iterable[str]) -> str:
    named = sorted(names)
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return ", ".join(map(_shown, named[:SHOWN])) + more


def _shown(name: str) -> str:
    """A name that cannot disturb a terminal."""
    return name if name.isprintable() else ascii(name)


def _raise(error: OSError) -> None:
    raise error
