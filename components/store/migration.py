"""Stores of older schema versions, written anew in today's: stored values stay as they are, to the bit.

A change that an older reader would misread, or cannot read, raises `SCHEMA_VERSION` and gets a step
here; readers know one version only. Every step takes the JSON of the version before it.

| version | what changed |
|---|---|
| 1 | float32, float16, int8, int4 and rotated tokens |
| 2 | codec `fitted` with `fit_sha256` in the provenance; the manifest says which ids a file begins and ends with |
| 3 | codes and scales are flat lists, no tensors of Arrow's own; `float16` is not split into byte streams |
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.store.manifest import MANIFEST
from components.store.provenance import METADATA_KEY, SCHEMA_VERSION, Provenance, StoreError
from components.store.shards import table_bytes

Tree = dict[str, Any]


def _to_2(provenance: Tree) -> Tree:
    return {**provenance, "schema_version": 2, "fit_sha256": None}


def _to_3(provenance: Tree) -> Tree:
    return {**provenance, "schema_version": 3}


STEPS: dict[int, Callable[[Tree], Tree]] = {1: _to_2, 2: _to_3}


def migrated_provenance(provenance: Tree, name: str) -> Provenance:
    """The provenance in today's version. Raises StoreError for one that is of today or of a version to come."""
    if provenance["schema_version"] == SCHEMA_VERSION:
        raise StoreError(f"{name}: has schema version {SCHEMA_VERSION} already")
    while (version := provenance["schema_version"]) != SCHEMA_VERSION:
        if version not in STEPS:
            raise StoreError(
                f"{name}: has schema version {version}, which this fwd2bot does not know; update it"
            )
        provenance = STEPS[version](provenance)
    return Provenance.model_validate_json(json.dumps(provenance))


# What is read of every manifest, whatever its version.
NEEDED = (
    ("provenance", "schema_version"),
    ("settings", "rows_per_row_group"),
    ("rejects", "sha256"),
    ("corpus", "rows"),
)


def read_old_manifest(folder: Path) -> Tree:
    """The manifest of any version, with all that is needed to write the store anew. Raises StoreError."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        names = [str(file["name"]) for file in manifest["files"]]
        for part, key in NEEDED:
            manifest[part][key]
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{folder}: has no {MANIFEST} that can be read: {error}") from None
    except (KeyError, TypeError) as error:
        raise StoreError(f"{folder / MANIFEST}: is not a manifest: {error!r}; restore it") from None

    # A name leads to a file of the store and to no other.
    present = {path.name for path in folder.iterdir()}
    if foreign := [name for name in names if name not in present]:
        raise StoreError(f"{folder}: {foreign[0]} is missing, and {MANIFEST} names it; restore it")
    return manifest


def migrated_shard(path: Path, old: Tree, wanted: Provenance, rows_per_row_group: int) -> bytes:
    """One file with its stored values as they are and today's provenance. Raises StoreError for a foreign file."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: is damaged: {error}; restore it") from None
    if json.loads(table.schema.metadata[METADATA_KEY]) != old:
        raise StoreError(f"{path}: has another provenance than the manifest says; restore it")
    return table_bytes(_with_flat_lists(table), wanted, rows_per_row_group)


def _with_flat_lists(table: pa.Table) -> pa.Table:
    """The same values with lists in place of tensors, which were the columns up to version 2."""
    for number, field in enumerate(table.schema):
        if isinstance(field.type, pa.FixedShapeTensorType):
            flat = pa.list_(
                pa.field("element", field.type.value_type), field.type.storage_type.list_size
            )
            chunks = [chunk.storage.cast(flat) for chunk in table.column(number).chunks]
            table = table.set_column(number, field.with_type(flat), pa.chunked_array(chunks, flat))
    return table
