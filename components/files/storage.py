"""Storage on disks and in buckets: a place is a path, or a URI of pyarrow (`s3://bucket/folder`)."""

import errno
import fnmatch
import os
import stat
from functools import lru_cache
from io import BufferedReader, BytesIO, RawIOBase
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
from pyarrow import fs

REMOTE_BUFFER = 1 << 20  # bytes asked of a bucket at once
STORAGE_FAULTS = {
    # disks and mounts
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN),
    # this process
    *(errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    # networks
    *(errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH),
}
BUCKET_SCHEMES = ("s3", "gs", "gcs")
NO_FILE = "neither a file nor a link to one"
PICTURE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")


class FileTooLargeError(ValueError):
    """A file has more bytes than may be read."""


def is_uri(place: str) -> bool:
    return "://" in place


def join(root: str, name: str) -> str:
    """Return a place below a root, or the name itself if it is a URI or an absolute path."""
    if is_uri(name) or name.startswith("/"):
        return name
    return f"{root.rstrip('/')}/{name}" if name else root


def name_of(place: str) -> str:
    """Return the last part of a place."""
    return place.rstrip("/").rpartition("/")[2]


def open_file(place: str) -> IO[bytes]:
    """Open a file to read from, at any position; a file of size 0 is taken to be empty.

    Raises OSError: IsADirectoryError also for pipes and devices, errno EIO when a bucket stops
    answering.
    """
    if is_uri(place):
        return BufferedReader(_RemoteFile(place), REMOTE_BUFFER)
    _check_regular(os.stat(place))  # opening some devices does something

    # What was a file may be a pipe by now: opening that would wait for a writer.
    file = os.fdopen(os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    try:
        status = os.fstat(file.fileno())
        _check_regular(status)
    except OSError:
        file.close()
        raise

    if status.st_size == 0:  # such as /proc/kmsg, which never ends
        file.close()
        return BytesIO()
    return file


def read_file(place: str, max_bytes: int) -> bytes:
    """Return the bytes that a file had when it was opened.

    Raises FileTooLargeError, and OSError: IsADirectoryError also for pipes and devices.
    """
    # `open_file` checks the same of a path.
    if is_uri(place):
        system, path = file_system(place)
        info = system.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError(errno.ENOENT, "there is no such file")
        if not info.is_file:
            raise IsADirectoryError(errno.EISDIR, NO_FILE)

    with open_file(place) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size > max_bytes:
            raise FileTooLargeError(f"{size} bytes, more than {max_bytes}")
        return file.read(size)


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, NO_FILE)


def printable(name: str) -> str:
    """Return a text that can be stored: bytes that are no UTF-8 are written out (`\\xff`)."""
    try:
        return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return name.encode(errors="backslashreplace").decode()


def terminal_safe(name: str) -> str:
    """Return a name with the characters that would disturb a terminal as escapes."""
    return name if name.isprintable() else ascii(name)


def is_unicode(text: str) -> bool:
    """Return whether a text can be written: it has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_storage_fault(error: Exception) -> bool:
    """Return whether a disk or a network failed, not the file, which may be read in a minute."""
    return isinstance(error, OSError) and error.errno in STORAGE_FAULTS


def matching_files(place: str) -> list[str]:
    """Return the files that a place with wild cards (`*`, `?`) stands for, sorted; no hidden ones.

    Raises ValueError when there is none.
    """
    folder, slash, pattern = place.rpartition("/")
    pattern = pattern.replace("[", "[[]")  # brackets are themselves
    found = fnmatch.filter(names_in(folder + slash), pattern)
    names = sorted(name for name in found if name[0] not in "._")
    if not names:
        raise ValueError(
            f"{place}: no such file; is this the right folder, and is the download complete?"
        )
    return [f"{folder}{slash}{name}" for name in names]


class FileState(NamedTuple):
    """The state of a file: another size or time means other content."""

    name: str  # relative to a folder
    num_bytes: int
    modified: str  # time


def state_of(place: str) -> FileState:
    """Return the state of one file."""
    if not is_uri(place):
        return state_of_path(place, Path(place).name)
    system, path = file_system(place)
    info = system.get_file_info(path)
    return FileState(info.base_name, info.size, str(info.mtime_ns))


def message(error: Exception) -> str:
    """Return an error in words, without its path, which differs from machine to machine."""
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"


def state_of_path(path: str, name: str) -> FileState:
    """Return the state of a file of a disk, called `name`; a link has the state of its target.

    A link that leads nowhere, or to itself, is a file without content.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        if is_storage_fault(error):
            raise
        return FileState(name, 0, "")
    return FileState(name, status.st_size, str(status.st_mtime_ns))


def names_in(folder: str) -> list[str]:
    """Return the names of the files directly in a folder, links to nowhere included."""
    if not is_uri(folder):
        names = []
        for entry in Path(folder).glob("*"):
            # Pipes and devices are no files.
            if not os.path.isdir(entry) and (entry.is_symlink() or entry.is_file()):
                names.append(entry.name)
        return names

    system, path = file_system(folder)
    infos = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [info.base_name for info in infos if info.is_file]


def file_system(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URI, and the path in it; all files of a bucket share one."""
    scheme, _, rest = uri.partition("://")
    if scheme not in BUCKET_SCHEMES or "?" in rest:
        return connection(uri)

    # names in a bucket are plain text, a URI would have to quote them
    bucket, _, key = rest.partition("/")
    system, root = connection(f"{scheme}://{bucket}")
    return system, f"{root}/{key}" if key else root


@lru_cache(maxsize=64)
def connection(uri: str) -> tuple[fs.FileSystem, str]:
    """Connect to a storage. Raises ValueError for a scheme that pyarrow does not know."""
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, NotImplementedError) as error:
        raise ValueError(
            f"{uri}: cannot be opened: {error}; use a path, s3://, gs:// or hdfs://"
        ) from None
    return system, path


class _RemoteFile(RawIOBase):
    """A file of a bucket; its OSError has the number that pyarrow leaves out."""

    def __init__(self, place: str) -> None:
        system, path = file_system(place)
        self.file = system.open_input_file(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.file.read(len(buffer))
        except OSError as error:
            raise OSError(errno.EIO, f"reading stopped: {error}") from None
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def close(self) -> None:
        self.file.close()
        super().close()
