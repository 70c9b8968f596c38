"""Everything that can be wrong with a store, looked for in all of its bytes: every fault is a line, none hides another.

`TokenStore` refuses what it happens to read; here all is read. Files can be checked in any order
and at the same time.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np

from components.files.atomic import sha256_of
from components.store.fit import Fit
from components.store.manifest import Manifest, StoredShard, file_faults, order_faults
from components.store.provenance import StoreError
from components.store.rejects import read_rejects, reject_counts
from components.store.shards import open_shard, read_rows
from components.store.token_store import load_fit, shard_faults


def folder_faults(folder: Path, manifest: Manifest) -> list[str]:
    """What names, sizes and the manifest alone show, and what the list of rejects and the fit do."""
    return [
        *file_faults(folder, manifest),
        *order_faults(manifest.files),
        *_count_faults(manifest),
        *_reject_faults(folder / manifest.rejects.name, manifest),
        *_fit_faults(folder, manifest),
    ]


def file_content_faults(
    path: Path, file: StoredShard, manifest: Manifest, fit: Fit | None
) -> list[str]:
    """What the bytes of one file show: hash, page checksums, schema, provenance, rows, ids and numbers.

    A file that is missing or of another size has its line in `folder_faults`.
    """
    if not path.is_file() or path.stat().st_size != file.bytes:
        return []
    faults = [] if sha256_of(path) == file.sha256 else [f"{file.name} has another SHA-256"]
    if fit is None and manifest.fit is not None:
        return faults
    try:
        with open_shard(path, fit) as shard:
            footer = [
                f"{file.name} {fault}" for fault in shard_faults(shard, file, manifest.provenance)
            ]
        return [*faults, *footer, *([] if footer else _row_faults(path, file, manifest, fit))]
    except StoreError as error:
        return [*faults, str(error)]


def whole_fit(folder: Path, manifest: Manifest) -> Fit | None:
    """The fit of the store, None if it has none or a damaged one."""
    return None if _fit_faults(folder, manifest) else load_fit(folder, manifest)


def _row_faults(path: Path, file: StoredShard, manifest: Manifest, fit: Fit | None) -> list[str]:
    faults, ids = [], []
    for rows in read_rows(path, manifest.provenance, fit):
        ids += rows.image_ids
        not_finite = np.count_nonzero(~np.isfinite(rows.summary_tokens).all(axis=(1, 2)))
        if not_finite:
            faults.append(f"{file.name} has {not_finite} pictures whose tokens are not finite")
    faults += [
        f"{file.name} has the picture id {right!r} "
        + ("twice" if left == right else f"behind {left!r}")
        for left, right in pairwise(ids)
        if left >= right
    ]
    ends = (ids[0], ids[-1]) if ids else (None, None)
    if ends != (file.first_id, file.last_id):
        faults.append(
            f"{file.name} holds the ids {ends}, the manifest says {(file.first_id, file.last_id)}"
        )
    return faults


def _count_faults(manifest: Manifest) -> list[str]:
    rejected, in_files = (
        sum(manifest.rows_rejected.values()),
        sum(file.rows for file in manifest.files),
    )
    claims = [
        ("rows_in", manifest.rows_in, "rows_kept + rows_rejected", manifest.rows_kept + rejected),
        ("rows_kept", manifest.rows_kept, "the rows of its files", in_files),
        ("corpus.rows", manifest.corpus.get("rows"), "rows_in", manifest.rows_in),
        ("rejects.rows", manifest.rejects.rows, "rows_rejected", rejected),
    ]
    return [
        f"the manifest has {name} {said}, but {other} are {is_}"
        for name, said, other, is_ in claims
        if said != is_
    ]


def _reject_faults(path: Path, manifest: Manifest) -> list[str]:
    if not path.is_file():
        return []
    faults = (
        [] if sha256_of(path) == manifest.rejects.sha256 else [f"{path.name} has another SHA-256"]
    )
    try:
        counts = reject_counts(read_rejects(path))
    except (ValueError, KeyError, TypeError) as error:
        return [*faults, f"{path.name} cannot be read: {error}"]
    if counts != manifest.rows_rejected:
        faults.append(f"{path.name} has {counts}, the manifest says {manifest.rows_rejected}")
    return faults


def _fit_faults(folder: Path, manifest: Manifest) -> list[str]:
    try:
        load_fit(folder, manifest)
    except ValueError as error:
        return [str(error)]
    return []
