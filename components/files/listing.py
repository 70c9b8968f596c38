"""Listings of all files below a place, with sizes and times that tell of changes."""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from pyarrow import fs

from components.files.links import walk
from components.files.storage import FileState, file_system, is_uri, state_of_path


def list_files(root: str, allowed_roots: Sequence[str]) -> Iterator[FileState]:
    """Yield all files below `root`, always in the same order; a link as the file it leads to.

    Folders that are not entered (links out of the root and of `allowed_roots`, links to what is
    read anyway, folders that may not be read) come as files without content, so that whoever reads
    them refuses each by its name.
    """
    if not is_uri(root):
        for found in walk(root, allowed_roots, leave_out=lambda name: False):
            if found.obstacle is None:
                yield state_of_path(found.path, found.name)
            else:
                yield FileState(found.name, 0, "")
        return

    system, path = file_system(root)
    infos = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    for info in sorted(infos, key=lambda info: str(info.path)):
        if info.is_file:
            name = PurePosixPath(info.path).relative_to(path).as_posix()
            yield FileState(name, info.size, str(info.mtime_ns))
