"""Files that this project writes: whole under their name or not there, and known by their SHA-256."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object], aside: Path | None = None) -> None:
    """What `write` writes, at `path`, whole or not at all.

    `aside`: where it is written first, on the same file system; `.NAME.partial` beside `path` if
    not given.
    """
    aside = aside or path.with_name(f".{path.name}.partial")
    write(aside)
    put_in_place(aside, path)


def put_in_place(partial: Path, path: Path) -> None:
    """Rename what lies on the disk, not only in memory: a file under its name is whole even after a power cut."""
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(partial, path)


def sha256_of(path: Path) -> str:
    """Of the bytes of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
