"""References of records to pictures, by a name below the root of their source.

References come from data that nobody checked: none of them leads out of the root that it belongs
to, but for links into roots that were allowed by name.
"""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from components.curation.reasons import Reason, Rejected
from components.files.links import OutsideRootsError, real_place
from components.files.storage import (
    PICTURE_EXTENSIONS,
    FileTooLargeError,
    is_storage_fault,
    is_uri,
    message,
    read_file,
)


class FoundPicture(NamedTuple):
    """The bytes of a picture, and the reference under which they lie."""

    data: bytes
    reference: str


def read_picture_file(
    root: str, reference: str, max_file_bytes: int, allowed_roots: Sequence[str] = ()
) -> FoundPicture:
    """Read the picture that a record refers to, relative to `root`. Raises Rejected.

    Links may lead into `allowed_roots`. Downloads may have another extension than the records that
    name them (OCR-VQA): where there is no such file, one with the same name and another picture
    extension counts.
    """
    # The name in the record is tried first, and is the one that a message names.
    missing = None
    for name in (reference, *_siblings(reference)):
        try:
            return FoundPicture(_read_within(root, name, max_file_bytes, allowed_roots), name)
        except Rejected as error:
            if error.reason is not Reason.IMAGE_MISSING:
                raise
            missing = missing or error
    assert missing is not None
    raise missing


def _siblings(reference: str) -> list[str]:
    """Return the same name with other extensions of pictures."""
    stem, _, extension = reference.rpartition(".")
    # `photo.2` says nothing of a picture called photo.jpg
    if extension.lower() not in PICTURE_EXTENSIONS:
        return []
    return [f"{stem}.{other}" for other in PICTURE_EXTENSIONS if other != extension]


def _read_within(
    root: str, reference: str, max_file_bytes: int, allowed_roots: Sequence[str]
) -> bytes:
    if is_uri(root):
        return _read_object(root, reference, max_file_bytes)

    # Faults of the file are reasons; a disk that fails is none, and stops the stage.
    try:
        return read_file(real_place(root, reference, allowed_roots), max_file_bytes)
    except OutsideRootsError:
        raise Rejected(Reason.PATH_ESCAPES_ROOT, reference) from None
    except (FileNotFoundError, NotADirectoryError):
        raise Rejected(Reason.IMAGE_MISSING, reference) from None
    except IsADirectoryError:
        raise Rejected(Reason.NOT_A_FILE, reference) from None
    except FileTooLargeError as error:
        raise Rejected(Reason.FILE_TOO_LARGE, f"{reference}: {error}") from None
    except PermissionError as error:
        raise Rejected(Reason.UNREADABLE, f"{reference}: {message(error)}") from None
    except (OSError, ValueError) as error:  # NUL in the name, a name too long, a loop of links
        if is_storage_fault(error):
            raise
        raise Rejected(Reason.IMAGE_MISSING, f"{reference[:200]!r}: {message(error)}") from None


def _read_object(root: str, reference: str, max_file_bytes: int) -> bytes:
    """Read a file of a bucket, where names are plain text: `..` in one means nothing good."""
    parts = PurePosixPath(reference).parts
    if ".." in parts or reference.startswith("/") or is_uri(reference):
        raise Rejected(Reason.PATH_ESCAPES_ROOT, reference)

    try:
        return read_file(f"{root.rstrip('/')}/{reference}", max_file_bytes)
    except FileNotFoundError:
        raise Rejected(Reason.IMAGE_MISSING, reference) from None
    except IsADirectoryError:
        raise Rejected(Reason.NOT_A_FILE, reference) from None
    except FileTooLargeError as error:
        raise Rejected(Reason.FILE_TOO_LARGE, f"{reference}: {error}") from None
