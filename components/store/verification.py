"""Verification of a store in all of its bytes: every fault is a line, none hides another.

`StoreReader` refuses what it happens to read; here all is read. Files can be checked in any order
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
from components.store.store_reader import load_fit, shard_faults


def folder_faults(folder: Path, manifest: Manifest) -> list[str]:
    """List the faults of names, sizes, the manifest, the list of rejects and the fit."""
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
    """List the faults of one file: hash, page checksums, schema, provenance, rows, ids, numbers.

    A file that is missing or of another size has its line in `folder_faults`.
    """
    if not path.is_file() or path.stat().st_size != file.bytes:
        return []
    faults = [] if sha256_of(path) == file.sha256 else [f"{file.name} has another SHA-256"]

    # Without its fit, a file of codec `fitted` cannot be decoded.
    if fit is None and manifest.fit is not None:
        return faults

    # Rows of another run or shape cannot be decoded, so the footer comes first.
    try:
        with open_shard(path, fit) as shard:
            in_footer = shard_faults(shard, file, manifest.provenance)
        for fault in in_footer:
            faults.append(f"{file.name} {fault}")
        if not in_footer:
            faults += _row_faults(path, file, manifest, fit)
    except StoreError as error:
        faults.append(str(error))
    return faults


def intact_fit(folder: Path, manifest: Manifest) -> Fit | None:
    """Return the fit of the store, None if it has none or a damaged one."""
    return None if _fit_faults(folder, manifest) else load_fit(folder, manifest)


def _row_faults(path: Path, file: StoredShard, manifest: Manifest, fit: Fit | None) -> list[str]:
    faults, ids = [], []
    for rows in read_rows(path, manifest.provenance, fit):
        ids += rows.image_ids
        is_finite = np.isfinite(rows.summary_tokens).all(axis=(1, 2))
        if not is_finite.all():
            num_bad = np.count_nonzero(~is_finite)
            faults.append(f"{file.name} has {num_bad} pictures whose tokens are not finite")

    # An id twice, or out of order, cannot be found by bisection.
    for left, right in pairwise(ids):
        if left >= right:
            order = "twice" if left == right else f"behind {left!r}"
            faults.append(f"{file.name} has the picture id {right!r} {order}")

    # The reader trusts the manifest's ends to choose a file.
    ends = (ids[0], ids[-1]) if ids else (None, None)
    expected = (file.first_id, file.last_id)
    if ends != expected:
        faults.append(f"{file.name} holds the ids {ends}, the manifest says {expected}")
    return faults


def _count_faults(manifest: Manifest) -> list[str]:
    rejected = sum(manifest.rows_rejected.values())
    in_files = sum(file.rows for file in manifest.files)
    claims = [
        ("rows_in", manifest.rows_in, "rows_kept + rows_rejected", manifest.rows_kept + rejected),
        ("rows_kept", manifest.rows_kept, "the rows of its files", in_files),
        ("corpus.rows", manifest.corpus.get("rows"), "rows_in", manifest.rows_in),
        ("rejects.rows", manifest.rejects.rows, "rows_rejected", rejected),
    ]

    faults = []
    for name, claimed, other, count in claims:
        if claimed != count:
            faults.append(f"the manifest has {name} {claimed}, but {other} are {count}")
    return faults


def _reject_faults(path: Path, manifest: Manifest) -> list[str]:
    if not path.is_file():
        return []

    faults = []
    if sha256_of(path) != manifest.rejects.sha256:
        faults.append(f"{path.name} has another SHA-256")

    # A damaged list may be of any shape.
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
