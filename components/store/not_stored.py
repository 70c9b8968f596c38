"""Notes in place of a store: why a method has nothing to store, and its number format."""

import json
from pathlib import Path

from components.files.outputs import json_with, new_file, only_writer

NOTE = "_not_stored.json"


def write_reason(folder: Path, method: str, why: str, dtype: str) -> None:
    """Make a folder with the reason and nothing else; an earlier reason is replaced.

    `dtype` is that of the base model's weights, in which a store would have been computed. Raises
    FileExistsError for a folder with other things.
    """
    text = json.dumps({"method": method, "why": why, "dtype": dtype}, indent=1) + "\n"
    with only_writer(folder):
        folder.mkdir(exist_ok=True)

        # A reason must not stand beside a store: readers would believe it and not the store.
        names = {path.name for path in folder.iterdir()}
        if others := sorted(names - {NOTE}):
            raise FileExistsError(
                f"{folder}: holds a store or other things ({', '.join(others[:3])}), and {method} "
                "stores nothing; remove it, or choose another folder"
            )

        with new_file(folder / NOTE, json_with("method", "why", "dtype")) as path:
            path.write_text(text, encoding="utf-8")


def dtype_wanted(folder: Path) -> str:
    """Return the number type for a method that runs on the pictures, since nothing is stored."""
    return str(json.loads((folder / NOTE).read_text(encoding="utf-8"))["dtype"])


def reason_not_stored(folder: Path) -> str | None:
    """Return why there is no store in a folder; None if no reason was written there."""
    path = folder / NOTE
    return str(json.loads(path.read_text(encoding="utf-8"))["why"]) if path.is_file() else None
