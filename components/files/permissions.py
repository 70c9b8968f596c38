"""Permissions of files by the umask: libraries write theirs for their owner alone."""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Modes(NamedTuple):
    """Permissions that the umask, or the folder above, gives to new files and folders."""

    file: int
    folder: int


def write_by_umask(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` write a file, and give it the permissions of any new file."""
    with path.open("wb") as stream:
        mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
    write(path)
    path.chmod(mode)


def set_modes(folder: Path, modes: Modes) -> None:
    """Give a folder, and all files and folders in it, these permissions."""
    for place, folders, names in os.walk(folder):
        wanted = {**dict.fromkeys(folders, modes.folder), **dict.fromkeys(names, modes.file)}
        for name, mode in wanted.items():
            path = Path(place, name)
            if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != mode:
                # written on another machine by another user, who may read it
                with suppress(PermissionError):
                    path.chmod(mode)
    folder.chmod(modes.folder)
