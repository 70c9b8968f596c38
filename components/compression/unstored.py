"""What `compress` leaves in place of a store when a method has nothing to store: the reason, and its number format."""

import json
from pathlib import Path

NOTE = "_not_stored.json"


def write_reason(folder: Path, method: str, why: str, dtype: str) -> None:
    """A folder with the reason, and nothing else; an earlier one is replaced. Raises FileExistsError for a store.

    `dtype` is that of the base model's weights, in which a store would have been computed.
    """
    if folder.is_dir() and {path.name for path in folder.iterdir()} - {NOTE}:
        raise FileExistsError(
            f"{folder}: holds a store, and {method} stores nothing; remove it, or choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NOTE).write_text(
        json.dumps({"method": method, "why": why, "dtype": dtype}, indent=1) + "\n", encoding="utf-8"
    )


def dtype_wanted(folder: Path) -> str:
    """The type in which the method should be computed when it is asked instead."""
    return str(json.loads((folder / NOTE).read_text(encoding="utf-8"))["dtype"])


def reason_not_stored(folder: Path) -> str | None:
    """Why there is no store in a folder; None if no such thing was written there."""
    path = folder / NOTE
    return f"{json.loads(path.read_text(encoding='utf-8'))['why']}" if path.is_file() else None
