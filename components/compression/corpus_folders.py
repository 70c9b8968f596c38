"""Pictures in a folder, at any depth, on a disk or in a bucket; ids are paths below the folder.

Nothing outside the folder is read, but for what links lead to in roots that were allowed by name:
other links that lead out of it are rejects. Ids are never used to build a path that the listing did
not find.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa

from components import schema
from components.compression.corpus import ENTRIES, FILE, ROW, Corpus, build_corpus
from components.files.links import Found, OutsideRootsError, real_place, walk
from components.files.listing import list_files
from components.files.storage import FileState, is_uri, message, printable, state_of_path
from components.store.rejects import Reject

OUTSIDE = "a link out of the folder; name what it leads into in compress.allowed_roots"
# folders that hide no picture from anybody
SKIPPED = {"left_out": "hidden folder", "read_before": "linked folder"}


class Listed(NamedTuple):
    """A file of a folder, or a folder that was not entered: then `reject` says why."""

    file: FileState
    reject: Reject | None


def list_folder(root: str, suffixes: Sequence[str], allowed_roots: Sequence[str] = ()) -> Corpus:
    """List the pictures below `root` with one of the `suffixes` (lower case).

    Links may lead into `allowed_roots`.
    """
    entries, rejects, files = [], [], []
    skipped: Counter[str] = Counter()

    for file, reject in _files(root, allowed_roots, suffixes, skipped):
        # An id is UTF-8, and so is all that names the picture to people.
        name = printable(file.name)
        files.append(file._replace(name=name))
        if name != file.name:
            rejects.append(Reject(name, "bad_id", "the file name is not UTF-8"))
        elif reject:
            rejects.append(reject)
        else:
            entries.append({schema.IMAGE_ID: name, FILE: name, ROW: 0})

    table = pa.Table.from_pylist(entries, ENTRIES)
    return build_corpus("folder", root, table, rejects, dict(skipped), files)


def _files(
    root: str, allowed_roots: Sequence[str], suffixes: Sequence[str], skipped: Counter[str]
) -> Iterator[Listed]:
    """Yield the pictures by their names; other files are counted in `skipped`."""
    # A bucket has no links, so nothing leads out of it.
    if is_uri(root):
        for file in list_files(root, ()):
            if _is_picture(file.name, suffixes, skipped):
                yield Listed(file, None)
        return

    # A folder that cannot be entered has no state, but a reject that says why.
    for found in walk(root, allowed_roots, leave_out=lambda name: name.startswith(".")):
        if found.obstacle in SKIPPED:
            skipped[SKIPPED[found.obstacle]] += 1
        elif found.obstacle:
            file = FileState(found.name, 0, "")
            yield Listed(file, _reject(root, found, allowed_roots))
        elif _is_picture(found.name, suffixes, skipped):
            file = state_of_path(found.path, found.name)
            yield Listed(file, _reject(root, found, allowed_roots))


def _is_picture(name: str, suffixes: Sequence[str], skipped: Counter[str]) -> bool:
    """Return whether a file is a picture by its name, and count it in `skipped` if not."""
    path = PurePosixPath(name)
    if path.name.startswith("."):
        skipped["hidden"] += 1
    elif path.suffix.lower() not in suffixes:
        skipped[path.suffix.lower() or "no suffix"] += 1
    else:
        return True
    return False


def _reject(root: str, found: Found, allowed_roots: Sequence[str]) -> Reject | None:
    """Return a reject for a file or a folder that a look at its name and its links rules out."""
    if found.obstacle == "unreadable":
        return Reject(found.name, "unreadable", "a folder that may not be listed")
    if found.obstacle == "outside":
        return Reject(found.name, "path_escapes_root", OUTSIDE)
    if not found.is_link:
        return None

    # Links are followed now, so that one that leads out is a reject before any worker starts.
    try:
        real_place(root, found.name, allowed_roots)
    except OutsideRootsError:
        return Reject(found.name, "path_escapes_root", OUTSIDE)
    except FileNotFoundError:
        return None  # the file may come back: the workers reject it if not
    except OSError as error:
        return Reject(found.name, "image_missing", f"a link that leads nowhere: {message(error)}")
    return None
