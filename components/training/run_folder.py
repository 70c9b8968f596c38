"""The folder of an unfinished training run: one run at a time, and checkpoints of that run only."""

import os
from collections.abc import Iterable
from pathlib import Path

from components.files.unfinished import discard, remove_discarded
from components.training.state import HistoryRow, is_intact

# in the folder of a run
SAMPLES = "samples.arrow"
HISTORY = "history.jsonl"
NOTES = "notes.txt"  # the progress of work before the first step
STOP = "stop"  # its presence asks the workers to stop after a checkpoint
RESULT = "compressor"
CHECKPOINTS = "checkpoint_manager_snapshot.json"  # Ray's list
CHECKPOINT = "step-{step:08d}"

HASHES = ".fwd2bot-hashes.json"  # in the state folder: contents of the inputs of earlier runs
# libraries whose version may change a result
LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "pillow")


def write_history(rows: Iterable[HistoryRow], path: Path) -> None:
    """Replace a history file, one JSON row per line."""
    aside = path.with_name(f"{path.name}.partial")
    aside.write_text("".join(f"{row.model_dump_json()}\n" for row in rows), encoding="utf-8")
    os.replace(aside, path)


def read_history(path: Path) -> list[HistoryRow]:
    """Read the rows written so far; none before the first."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [HistoryRow.model_validate_json(line) for line in lines]


def forget_damaged_checkpoints(run: Path) -> None:
    """Remove damaged checkpoints of a run and print from which one training goes on.

    Ray's own list is dropped with them: it is written in place, so that a kill may cut it off, and
    it goes by the order of reports. Ray then starts a run of the same name, and the workers find
    the checkpoint by themselves.
    """
    (run / CHECKPOINTS).unlink(missing_ok=True)
    remove_discarded(run)

    for folder in sorted(run.glob("step-*")):
        if not is_intact(folder):
            print(f"train: checkpoint {folder.name} is damaged and left out", flush=True)
            discard(folder)

    if newest := last_checkpoint(run):
        print(f"train: going on from checkpoint {newest.name} of an interrupted run", flush=True)


def last_checkpoint(run: Path) -> Path | None:
    """Return the newest intact checkpoint; a worker may have died while it wrote one."""
    newest_first = sorted(run.glob("step-*"), reverse=True)
    return next(filter(is_intact, newest_first), None)
