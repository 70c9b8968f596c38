"""Job `runs`: the unfinished work of `train`, `pretrain`, `curate`, `compress` and others, and how it is removed.

    python -m flows.runs list                          all below the current folder: where, how far, how large, how old
    python -m flows.runs list /mnt/stores              all below another folder
    python -m flows.runs discard .cache/train/NAME …   remove what is named, and nothing else

A run goes on with the work of its own name. It never removes that of another run: this command
does.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from components.files.unfinished import describe, discard, find_works, hold, is_work, leave
from flows.running.endings import ending

app = typer.Typer(add_completion=False, no_args_is_help=True)
Root = Annotated[
    Path, typer.Argument(help="Folder to look in, with all below it.", exists=True, file_okay=False)
]
Folders = Annotated[list[Path], typer.Argument(help="Folders that `list` prints.")]


@app.command("list")
@ending("runs")
def list_runs(root: Root = Path()) -> None:
    """Print every folder of unfinished work with its progress, size and age."""
    works = list(find_works(root))
    for work in works:
        print(describe(work))
    print(f"runs: {len(works)} unfinished, {sum(work.num_bytes for work in works) / 1e6:,.1f} MB")


@app.command("discard")
@ending("runs")
def discard_runs(folders: Folders) -> None:
    """Remove folders of unfinished work for good."""
    for folder in folders:
        if not is_work(folder):
            sys.exit(
                f"runs: {folder}: is no folder of unfinished work; `list` prints those; nothing was removed"
            )
    for folder in dict.fromkeys(map(Path.resolve, folders)):
        try:
            remove(folder)
        except OSError as error:
            sys.exit(f"runs: {folder}: {error.strerror}")
        print(f"runs: {folder} is removed")


def remove(folder: Path) -> None:
    """Remove one. Raises BusyError while a run is at work beside it."""
    with hold(folder.parent):
        discard(folder)
        leave(folder.parent)


if __name__ == "__main__":
    app()
