"""Job `runs`: list the unfinished work of all commands, and remove the folders that are named.

    fwd2bot runs list                          below the current folder: where, how far, how large
    fwd2bot runs list /mnt/stores              below another folder
    fwd2bot runs discard .cache/train/NAME …   remove the named folders, and nothing else

A run goes on with the work of its own name, and never removes the work of another run: this command
does.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from components.files.unfinished import describe, discard, find_works, hold, is_work, leave


def list_works(root: Path) -> None:
    """Print every folder of unfinished work with its progress, size and age."""
    works = list(find_works(root))
    for work in works:
        print(describe(work))
    megabytes = sum(work.num_bytes for work in works) / 1e6
    print(f"runs: {len(works)} unfinished, {megabytes:,.1f} MB")


def discard_works(folders: Sequence[Path]) -> None:
    """Remove folders of unfinished work for good."""
    # All or none: a name that is misspelt stops the command before anything is gone.
    for folder in folders:
        if not is_work(folder):
            sys.exit(
                f"runs: {folder}: is no folder of unfinished work; `list` prints those; "
                "nothing was removed"
            )

    # A folder may be named twice.
    for folder in dict.fromkeys(map(Path.resolve, folders)):
        try:
            remove(folder)
        except OSError as error:
            sys.exit(f"runs: {folder}: {error.strerror}")
        print(f"runs: {folder} is removed")


def remove(folder: Path) -> None:
    """Remove a folder of unfinished work. Raises BusyError while a run is at work beside it."""
    with hold(folder.parent):
        discard(folder)
        leave(folder.parent)


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("runs")
