"""Atomic files: whole under their name or not there, and known by their SHA-256."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object], aside: Path | None = None) -> None:
    """Have `write` write a file at `path`, whole or not at all.

    `aside`: where it is written first, on the same file system; `.NAME.partial` beside `path` if
    not given.
    """
    aside = aside or path.with_name(f".{path.name}.partial")
    write(aside)
    put_in_place(aside, path)


def put_in_place(partial: Path, path: Path) -> None:
    """Give a file its name, once all of it lies on the disk: a power cut leaves no half of it."""
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(partial, path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
