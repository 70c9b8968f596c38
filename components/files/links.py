"""Links: they may lead to files below their own folder, and below roots that are allowed by name.

Records and folders of pictures come from anywhere, and a link in them can lead to any file of a
machine. DVC (`cache.type symlink`) and the cache of Hugging Face lay out folders that are all
links, into one place that is known.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from components.files.storage import is_storage_fault

Obstacle = Literal["left_out", "read_before", "outside", "unreadable"]


class OutsideRootsError(ValueError):
    """A place leads out of its root, and not into an allowed one."""


class Found(NamedTuple):
    """A file below a folder, or a folder below it that was not entered."""

    name: str  # relative to the folder, with `/`
    path: str
    is_link: bool
    obstacle: Obstacle | None  # why a folder was not entered; None: a file


def real_place(root: str, name: str, allowed_roots: Sequence[str]) -> str:
    """Return where `name` below `root` really lies: below it or, by links, an allowed root.

    A name that climbs by `..`, or is absolute, stays below the root whatever is allowed. Open the
    returned path, not `name`: its links may have changed by then. Raises OutsideRootsError, and
    OSError for links to nowhere or in circles.
    """
    real = os.path.realpath(os.path.join(root, name))
    path = PurePosixPath(name)
    roots = [root] if path.is_absolute() or ".." in path.parts else [root, *allowed_roots]
    if not lies_in(real, roots):
        raise OutsideRootsError(name)
    os.stat(real)
    return real


def lies_in(real: str, roots: Sequence[str]) -> bool:
    """Return whether a real path is one of `roots`, which may be links, or lies below one."""
    return any(PurePosixPath(real).is_relative_to(os.path.realpath(root)) for root in roots)


def walk(
    root: str, allowed_roots: Sequence[str], leave_out: Callable[[str], bool]
) -> Iterator[Found]:
    """Yield every file below `root` and below linked folders, always in the same order.

    Each real folder is entered once: by its own name if it lies below `root`, else by the first
    link to it. So links in circles end. Folders with names of `leave_out`, and what else is not
    entered, come as an obstacle. Raises OSError when the disk fails.
    """
    entered: set[str] = set()
    links: deque[Found] = deque()
    yield from _walk_folder("", os.path.realpath(root), entered, links, leave_out)

    # Links come last: a folder below the root goes by its own name.
    while links:
        link = links.popleft()
        real = os.path.realpath(link.path)
        if real in entered:
            yield link._replace(obstacle="read_before")
        elif not lies_in(real, [root, *allowed_roots]):
            yield link._replace(obstacle="outside")
        else:
            yield from _walk_folder(link.name, real, entered, links, leave_out)


def _walk_folder(
    name: str, real: str, entered: set[str], links: deque[Found], leave_out: Callable[[str], bool]
) -> Iterator[Found]:
    """Yield the files of a folder and its subfolders; note links to folders in `links`."""
    waiting = [Found(name, real, False, None)]
    while waiting:
        folder = waiting.pop()
        if folder.path in entered:
            yield folder._replace(obstacle="read_before")
            continue
        entered.add(folder.path)

        entries = _entries(folder.path)
        if entries is None:
            yield folder._replace(obstacle="unreadable")
            continue

        subfolders = []
        for entry in entries:
            path = f"{folder.name}/{entry.name}" if folder.name else entry.name
            found = Found(path, entry.path, entry.is_symlink(), None)
            # of a link, what it leads to: an entry would raise at links in circles
            is_folder = os.path.isdir(entry.path) if found.is_link else entry.is_dir()
            if not is_folder:
                yield found
            elif leave_out(entry.name):
                yield found._replace(obstacle="left_out")
            elif found.is_link:
                links.append(found)
            else:
                subfolders.append(found)
        waiting += reversed(subfolders)


def _entries(folder: str) -> list[os.DirEntry[str]] | None:
    """Return the entries of a folder, sorted by name; None when it may not be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if is_storage_fault(error):
            raise
        return None
