"""Pictures in a folder, at any depth, on a disk or in a bucket; the id of a picture is its path below the folder.

Nothing outside the folder is read: links that lead out of it are rejects. Ids are never used to build a path that the
listing did not find.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa

from components.compression.corpus import ENTRIES, Corpus, build_corpus
from components.compression.rejects import Reject
from components.files.storage import FileState, is_uri, list_files


def list_folder(root: str, suffixes: Sequence[str]) -> Corpus:
    """List the pictures below `root` with one of the `suffixes` (lower case)."""
    entries, rejects, files = [], [], []
    skipped: Counter[str] = Counter()
    for file in _files(root, skipped):
        path = PurePosixPath(file.name)
        if path.name.startswith("."):
            skipped["hidden"] += 1
        elif path.suffix.lower() not in suffixes:
            skipped[path.suffix.lower() or "no suffix"] += 1
        else:
            reject = _check_path(root, file.name)
            files.append(FileState(_printable(file.name), file.num_bytes, file.modified))
            if reject:
                rejects.append(reject)
            else:
                entries.append({"image_id": file.name, "file": file.name, "row": 0})
    return build_corpus("folder", root, pa.Table.from_pylist(entries, ENTRIES), rejects, dict(skipped), files)


def _files(root: str, skipped: Counter[str]) -> Iterator[FileState]:
    if is_uri(root):
        yield from list_files(root)
        return
    for name in sorted(_walk(root, skipped)):
        status = Path(root, name).lstat()
        yield FileState(name, status.st_size, str(status.st_mtime_ns))


def _walk(root: str, skipped: Counter[str]) -> Iterator[str]:
    """Paths of all files below `root`, with `/`; linked folders are not entered, hidden ones are counted."""
    for folder, subfolders, names in os.walk(root):
        for name in [name for name in subfolders if name.startswith(".") or os.path.islink(os.path.join(folder, name))]:
            skipped["hidden folder" if name.startswith(".") else "linked folder"] += 1
            subfolders.remove(name)
        for name in names:
            yield Path(folder, name).relative_to(root).as_posix()


def _check_path(root: str, name: str) -> Reject | None:
    if _printable(name) != name:
        return Reject(_printable(name), "bad_id", "the file name is not UTF-8")
    if is_uri(root):
        return None
    path = Path(root, name)
    if path.is_symlink() and not path.resolve().is_relative_to(Path(root).resolve()):
        return Reject(name, "path_escapes_root", "a link out of the folder")
    return None


def _printable(name: str) -> str:
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
