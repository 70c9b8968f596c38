"""What `compress` leaves in place of a store when a method has nothing to store: the reason, and its number format."""

import json
from pathlib import Path

from components.files.outputs import json_with, new_file, only_writer

NOTE = "_not_stored.json"


def write_reason(folder: Path, method: str, why: str, dtype: str) -> None:
    """A folder with the reason, and nothing else; an earlier one is replaced. Raises FileExistsError for anything else.

    `dtype` is that of the base model's weights, in which a store would have been computed.
    """
    text = json.dumps({"method": method, "why": why, "dtype": dtype}, indent=1) + "\n"
    with only_writer(folder):
        if others := sorted(
            {path.name for path in folder.iterdir()} - {NOTE} if folder.is_dir() else []
        ):
            raise FileExistsError(
                f"{folder}: holds a store or other things ({', '.join(others[:3])}), and {method} stores nothing; "
                "remove it, or choose another folder"
            )
        folder.mkdir(exist_ok=True)
        with new_file(folder / NOTE, json_with("method", "why", "dtype")) as path:
            path.write_text(text, encoding="utf-8")


def dtype_wanted(folder: Path) -> str:
    """The type in which the method should be computed when it is asked instead."""
    return str(json.loads((folder / NOTE).read_text(encoding="utf-8"))["dtype"])


def reason_not_stored(folder: Path) -> str | None:
    """Why there is no store in a folder; None if no such thing was written there."""
    path = folder / NOTE
    return f"{json.loads(path.read_text(encoding='utf-8'))['why']}" if path.is_file() else None
