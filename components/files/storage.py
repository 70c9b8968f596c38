"""Files on a disk or in a bucket: a place is a path, or a URI that pyarrow can open (`s3://bucket/folder`)."""

import fnmatch
import os
from collections.abc import Iterator
from functools import lru_cache
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

from pyarrow import fs

PICTURE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")


def is_uri(place: str) -> bool:
    return "://" in place


def join(root: str, name: str) -> str:
    """A place below a root, or the name itself if it is a URI or an absolute path."""
    return name if is_uri(name) or name.startswith("/") else f"{root.rstrip('/')}/{name}" if name else root


def name_of(place: str) -> str:
    """The last part of a place."""
    return place.rstrip("/").rpartition("/")[2]


def open_file(place: str) -> IO[bytes]:
    """A file to read from, at any position. Raises OSError."""
    if not is_uri(place):
        return Path(place).open("rb")
    system, path = file_system(place)
    return BufferedReader(cast("IO[bytes]", system.open_input_file(path)))  # type: ignore[type-var]  # a raw stream


def matching_files(place: str) -> list[str]:
    """The files that a place with wild cards (`*`, `?`) stands for, sorted; hidden ones are left out.

    Raises ValueError when there is none.
    """
    folder, _, pattern = place.rpartition("/")
    names = [name for name in _names_in(folder) if fnmatch.fnmatchcase(name, pattern) and name[0] not in "._"]
    if not names:
        raise ValueError(f"{place}: no such file; is this the right folder, and is the download complete?")
    return [f"{folder}/{name}" for name in sorted(names)]


class FileState(NamedTuple):
    """A file; another size or time means other content."""

    name: str  # relative to a folder
    num_bytes: int
    modified: str  # time


def list_files(root: str) -> Iterator[FileState]:
    """All files below `root`, always in the same order; of a folder, the names of one level at a time in memory."""
    if not is_uri(root):
        for folder, folders, names in os.walk(root):
            folders.sort()
            yield from (_state(Path(folder, name), root) for name in sorted(names))
        return
    system, path = file_system(root)
    infos = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    for info in sorted((info for info in infos if info.is_file), key=lambda info: str(info.path)):
        yield FileState(PurePosixPath(info.path).relative_to(path).as_posix(), info.size, str(info.mtime_ns))


def state_of(place: str) -> FileState:
    """The state of one file."""
    if not is_uri(place):
        return _state(Path(place), str(Path(place).parent))
    system, path = file_system(place)
    info = system.get_file_info(path)
    return FileState(info.base_name, info.size, str(info.mtime_ns))


def message(error: Exception) -> str:
    """Without the path that operating system errors carry: it would differ from machine to machine."""
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"


def _state(path: Path, root: str) -> FileState:
    """A link that leads nowhere is a file without content."""
    status = path.stat() if path.exists() else None
    size, modified = (0, "") if status is None else (status.st_size, str(status.st_mtime_ns))
    return FileState(path.relative_to(root).as_posix(), size, modified)


def _names_in(folder: str) -> list[str]:
    """The files directly in a folder."""
    if not is_uri(folder):
        return [path.name for path in Path(folder).glob("*") if path.is_file()]
    system, path = file_system(folder)
    infos = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [info.base_name for info in infos if info.is_file]


@lru_cache(maxsize=64)
def file_system(uri: str) -> tuple[fs.FileSystem, str]:
    """What opens a URI, and the path of it there."""
    system, path = fs.FileSystem.from_uri(uri)
    return system, path
