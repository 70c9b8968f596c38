"""Lists of written files: `_fwd2bot.json` in a folder has the job that wrote it, and every file.

Only files that are listed, and still have the listed size, are removed. Readers of Parquet
folders leave out names that begin with `_`, and DVC keeps the list with the folder.
"""

import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from components.files.atomic import write_whole
from components.files.storage import terminal_safe

LIST = "_fwd2bot.json"
LIST_ASIDE = f".{LIST}.partial"  # where a list is written first
MAX_LIST_BYTES = 1 << 30  # a list of ten million files
SHOWN = 3  # names in a message


class OutputError(ValueError):
    """Something that this project did not write is in the place of an output."""


class Written(NamedTuple):
    """The list of a folder."""

    job: str
    files: Mapping[str, int]  # name -> bytes
    growing: tuple[str, ...] = ()  # patterns of names of files that are still written

    def holds(self, name: str, size: int) -> bool:
        """Return whether a file is listed, and nobody has changed its size since."""
        is_growing = any(fnmatchcase(name, pattern) for pattern in self.growing)
        return is_growing or self.files.get(name) == size

    def held(self, found: Mapping[str, int]) -> dict[str, int]:
        """Return the files among `found` that the list holds."""
        return {name: size for name, size in found.items() if self.holds(name, size)}


def read_list(folder: Path, growing: Sequence[str] = ()) -> Written | None:
    """Return the list of a folder; None where there is none, or one that is not ours.

    Only the patterns among `growing` are believed: anybody may have edited the list.
    """
    path = folder / LIST
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            return None
        found: Any = json.loads(path.read_bytes())
        program, job = found["written_by"].split(" ")

        files = {name: int(size) for name, size in found["files"].items()}
        believed = tuple(pattern for pattern in map(str, found["growing"]) if pattern in growing)
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None
    return Written(job, files, believed) if program == "fwd2bot" else None


def write_list(folder: Path, written: Written) -> None:
    """Write the list of a folder, whole or not at all."""
    content = {
        "files": written.files,
        "growing": written.growing,
        "written_by": f"fwd2bot {written.job}",
    }
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    write_whole(
        folder / LIST, lambda path: path.write_text(text, encoding="utf-8"), folder / LIST_ASIDE
    )


def remove_list(folder: Path) -> None:
    """Remove the list of a folder."""
    for name in (LIST_ASIDE, LIST):
        (folder / name).unlink(missing_ok=True)


def files_in(folder: Path) -> dict[str, int]:
    """Return {name: bytes} of all files in a folder but its list, sorted by name.

    A link to a folder counts as a file, and an empty folder as a name with `/` at its end.
    """
    found: dict[str, int] = {}
    for place, folders, names in os.walk(folder, onerror=_raise):
        links = [name for name in folders if Path(place, name).is_symlink()]
        for name in (*names, *links):
            path = Path(place, name)
            found[path.relative_to(folder).as_posix()] = _size(path)
        if not names and not folders and Path(place) != folder:
            found[f"{Path(place).relative_to(folder).as_posix()}/"] = 0

    # The list cannot hold its own size.
    for name in (LIST, LIST_ASIDE):
        found.pop(name, None)
    return dict(sorted(found.items()))


def check_folder(folder: Path, job: str, growing: Sequence[str] = ()) -> None:
    """Raise OutputError for a folder with anything that `job` did not write.

    `growing`: patterns of files that it may have been writing when it was killed.
    """
    if not folder.exists():
        return
    written, found = read_list(folder, growing), files_in(folder)

    # Without a list nothing is ours; a folder without anything is anybody's.
    if written is None:
        if found:
            raise OutputError(
                f"{folder}: holds {name_some(found)}, and no {LIST} says that {job} wrote that; "
                "move or remove it, or choose another folder"
            )
        if os.path.lexists(folder / LIST):
            raise OutputError(
                f"{folder / LIST}: cannot be read as what {job} writes; "
                "remove it, or choose another folder"
            )
        return

    # Files of this job may be replaced; a file that has changed may hold somebody's work.
    if written.job != job:
        raise OutputError(
            f"{folder}: holds what {written.job} wrote; choose another folder, or remove it"
        )
    if foreign := found.keys() - written.held(found).keys():
        raise OutputError(
            f"{folder}: holds {name_some(foreign)}, which {job} did not write or which has changed "
            "since; move that, or choose another folder"
        )


def remove_written(folder: Path, growing: Sequence[str] = ()) -> None:
    """Remove the listed files of a checked folder, folders that are empty then, and the list."""
    written = read_list(folder, growing)
    if written is None:
        return

    parents: set[Path] = set()
    for name in written.held(files_in(folder)):
        if not name.endswith("/"):
            (folder / name).unlink()
        # the name of an empty folder ends in a slash: it is the parent of what would follow
        parents.update(Path(f"{name}x").parents)

    # the innermost folders first: they empty the ones above them
    for parent in sorted(parents - {Path()}, key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):  # somebody has put something into it just now
            (folder / parent).rmdir()
    remove_list(folder)


def name_some(names: Iterable[str]) -> str:
    """Return the first few of some names, and how many more there are."""
    named = sorted(names)
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return ", ".join(map(terminal_safe, named[:SHOWN])) + more


def _size(path: Path) -> int:
    """Return the bytes of a file or of a link's file; -1 for a link to nothing or to a folder."""
    try:
        status = path.stat()
    except OSError:
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def _raise(error: OSError) -> None:
    raise error
