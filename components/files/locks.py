"""Locks: files that one process at a time holds, until it lets go, ends or is killed."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW


class BusyError(ValueError):
    """Another process is at work in the same place."""


@contextmanager
def locked(lock: Path, busy: str) -> Iterator[None]:
    """Hold the file `lock`, made if missing with its folder; the holder may remove both.

    Raises BusyError with the message `busy` while another process holds it.
    """
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(lock, FLAGS, 0o666), "rb+", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # which of them depends on the file system
                raise BusyError(busy) from None

            # A holder before us may have removed the file after we opened it: it locks nobody out.
            if _is_at(lock, file.fileno()):
                yield
                return


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
