"""Small stores for the tests, written through the same functions as the flow writes them."""

from pathlib import Path

import numpy as np

from components.store import shards
from components.store import unfinished_store as work
from components.store.fit import Fit, fit_bytes
from components.store.provenance import SCHEMA_VERSION, Provenance
from components.store.rejects import Reject

PROVENANCE = Provenance(
    schema_version=SCHEMA_VERSION,
    codec="float16",
    fit_sha256=None,
    num_summary_tokens=3,
    dim=8,
    base="models/some-llava",
    model={"base_sha256": "b" * 64, "compression_sha256": "c" * 64},
    preprocessing={"size": 96, "pad_to_square": True},
    compute={"dtype": "float32"},
    libraries={"torch": "2.13.0"},
)
SETTINGS = {"rows_per_row_group": 2}


def random_rows(
    image_ids: list[str], seed: int, provenance: Provenance = PROVENANCE
) -> shards.TokenRows:
    """Rows whose tokens are exact in 2 bytes."""
    rng = np.random.default_rng(seed)
    tokens = rng.normal(
        size=(len(image_ids), provenance.num_summary_tokens, provenance.dim)
    ).astype(np.float16)
    sizes = rng.integers(1, 500, (2, len(image_ids))).astype(np.int32)
    return shards.TokenRows(image_ids, sizes[0], sizes[1], tokens.astype(np.float32))


def shard_of(rows: shards.TokenRows, provenance: Provenance, fit: Fit | None = None) -> bytes:
    """The file of rows that all fit the codec, with two rows to a row group."""
    encoded, rejects = shards.encode_rows(rows, provenance.codec, fit)
    assert rejects == []
    return shards.shard_bytes(encoded, provenance, SETTINGS["rows_per_row_group"], fit)


def write_store(
    folder: Path,
    parts: list[shards.TokenRows],
    provenance: Provenance = PROVENANCE,
    rejects: tuple[Reject, ...] = (),
    fit: Fit | None = None,
) -> Path:
    """A finished store of one file for each of `parts`, with two rows to a row group."""
    total = sum(len(rows.image_ids) for rows in parts) + len(rejects)
    with work.work_folder(folder, "run") as place:
        if fit is not None:
            work.place_fit(place, fit_bytes(fit))
        reports = [
            work.finish_shard(place, number, shard_of(rows, provenance, fit), rows.image_ids, [])
            for number, rows in enumerate(parts)
        ]
        work.publish_store(
            place,
            folder,
            provenance,
            {"kind": "folder", "rows": total},
            SETTINGS,
            reports,
            list(rejects),
        )
    return folder
