"""The manifest of a store, written last: its files with rows, bytes, SHA-256, first and last id.

A folder without a manifest is no store. Readers trust nothing else: a file that is absent from the
manifest, missing, longer or shorter than it says is an error.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from components.files.atomic import sha256_of, write_whole
from components.store.not_stored import reason_not_stored
from components.store.provenance import Provenance, StoreError, check_schema_version

MANIFEST = "_manifest.json"  # names that readers of Parquet folders leave out
REJECTS = "_rejects.json"
FIT = "_fit.safetensors"  # of codec `fitted`


class StoredFile(BaseModel):
    """One file of a store."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    rows: int
    bytes: int
    sha256: str


class StoredShard(StoredFile):
    """One file of summary tokens; its rows are sorted by picture id."""

    first_id: str | None  # None in a file without rows
    last_id: str | None


class Manifest(BaseModel):
    """The contents and the origin of a store; `rows_in` = `rows_kept` + all of `rows_rejected`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    provenance: Provenance
    # kind, rows and hash of the listing (names, sizes, ids) of what was compressed
    corpus: dict[str, Any]
    # what else decides the files: batch and file sizes, limits of pictures
    settings: dict[str, Any]
    files: tuple[StoredShard, ...]  # no id of a file is below those of the files before it
    rejects: StoredFile
    fit: StoredFile | None  # of codec `fitted`
    rows_in: int
    rows_kept: int
    rows_rejected: dict[str, int]  # by reason


def build_manifest(
    provenance: Provenance,
    corpus: dict[str, Any],
    settings: dict[str, Any],
    files: list[StoredShard],
    rejects: StoredFile,
    rejected: dict[str, int],
    fit: StoredFile | None,
) -> Manifest:
    """Build the manifest of finished files; asserts that no row was lost or counted twice.

    Raises StoreError for files whose ids overlap.
    """
    rows_in, rows_kept = corpus["rows"], sum(file.rows for file in files)
    assert rows_in == rows_kept + sum(rejected.values()), "a row was lost or counted twice"
    assert rejects.rows == sum(rejected.values())

    # Readers find a picture by the ids that files begin and end with.
    files = sorted(files, key=lambda file: file.name)
    if faults := order_faults(files):
        raise StoreError("; ".join(faults))

    return Manifest(
        provenance=provenance,
        corpus=corpus,
        settings=settings,
        files=tuple(files),
        rejects=rejects,
        fit=fit,
        rows_in=rows_in,
        rows_kept=rows_kept,
        rows_rejected=dict(sorted(rejected.items())),
    )


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the store in `folder`.

    Raises StoreError when there is none, or none that this version reads.
    """
    # Three ways not to be a store have a sentence of their own.
    path = folder / MANIFEST
    if not folder.is_dir():
        raise StoreError(
            f"{folder}: there is no such folder; make a store with `python -m flows.compress` or "
            "`dvc repro compress`"
        )
    if why := reason_not_stored(folder):
        raise StoreError(f"{folder}: nothing is stored here: {why}")
    if not path.is_file():
        raise StoreError(
            f"{folder}: has no {MANIFEST}, so it is no finished store; run `flows.compress` on its "
            "pictures again"
        )

    # The version decides before the contents do: another one may have other keys.
    text = path.read_bytes()
    try:
        check_schema_version(json.loads(text)["provenance"]["schema_version"], str(path))
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{path}: cannot be read: {error!r}; run `flows.compress` again") from None

    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise StoreError(f"{path}: is not a manifest: {error}") from None


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare names and sizes in `folder`, and the order of the ids, with the manifest.

    Raises StoreError that names each file that differs.
    """
    if faults := [*file_faults(folder, manifest), *order_faults(manifest.files)]:
        raise StoreError(
            f"{folder}: does not match its {MANIFEST}: {'; '.join(faults)}; restore it or compress "
            "again"
        )


def all_files(manifest: Manifest) -> tuple[StoredFile, ...]:
    """List every file of the store but for the manifest."""
    return (*manifest.files, manifest.rejects, *([manifest.fit] if manifest.fit else []))


def file_faults(folder: Path, manifest: Manifest) -> list[str]:
    """List a line for each file that is missing, too many, or of another size.

    Other names that begin with `.` or `_` are ignored, as Parquet readers do.
    """
    listed = {file.name: file.bytes for file in all_files(manifest)}
    present: dict[str, int] = {}
    for path in folder.iterdir():
        if path.name in listed or not path.name.startswith((".", "_")):
            present[path.name] = path.stat().st_size

    # Names come first: a file under a wrong name is one missing and one too many.
    faults = [f"{name} is missing" for name in sorted(listed.keys() - present.keys())]
    faults += [f"{name} is not in the manifest" for name in sorted(present.keys() - listed.keys())]
    for name in sorted(listed.keys() & present.keys()):
        if present[name] != listed[name]:
            faults.append(f"{name} has {present[name]} bytes instead of {listed[name]}")

    return faults


def order_faults(files: Sequence[StoredShard]) -> list[str]:
    """List a line for each file that begins with an id not above all ids of the files before it.

    An id in two files is such a case.
    """
    faults, last, name = [], None, ""
    for file in files:
        # A file whose rows are all rejects has no ids.
        if file.first_id is None or file.last_id is None:
            continue
        if last is not None and file.first_id <= last:
            faults.append(
                f"{file.name} begins with {file.first_id!r}, but {name} ends with {last!r}"
            )
        last, name = file.last_id, file.name

    return faults


def describe_file(path: Path, rows: int) -> StoredFile:
    """Return the manifest entry of a finished file."""
    return StoredFile(name=path.name, rows=rows, bytes=path.stat().st_size, sha256=sha256_of(path))


def write_json(path: Path, content: Mapping[str, Any], aside: Path) -> None:
    """Write JSON so that `path` appears whole or not at all.

    `aside` is a folder on the same file system.
    """
    publish(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode(), aside)


def publish(path: Path, data: bytes, aside: Path) -> None:
    """Write `data` under another name in `aside`, force it to disk, then rename it to `path`."""
    temporary = aside / f"{path.name}.{uuid4().hex}"  # process numbers repeat on other machines
    write_whole(path, lambda place: place.write_bytes(data), temporary)
