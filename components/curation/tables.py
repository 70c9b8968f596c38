"""Parquet of the curation stage: staging files that tasks write, and the final shards that are taken from them.

Bytes depend on the rows alone: fixed order, fixed file names, no times. Every file appears whole or not at all.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from components import schema
from components.curation.candidates import CANDIDATES, Candidate
from components.curation.deduplication import Checked

SAMPLES, IMAGES = "samples", "images"
FOLDERS = {SAMPLES: schema.SAMPLES, IMAGES: schema.IMAGES}


class ShardRow(NamedTuple):
    """Where a row of a shard is found, and the id it gets."""

    task: int
    position: int
    row_id: str


class Shard(NamedTuple):
    """One file to write."""

    path: str  # relative to the output folder
    split: str
    rows: list[ShardRow]


def encode_checked(rows: Sequence[Checked]) -> str:
    """The facts about rows as text, as tasks send them to the driver; `decode_checked` gives them back."""
    return json.dumps(rows)


def decode_checked(text: str) -> list[Checked]:
    """What `encode_checked` was given."""
    return [Checked(*row)._replace(repairs=tuple(row[Checked._fields.index("repairs")])) for row in json.loads(text)]


def encode_shard(shard: Shard) -> str:
    """A planned shard as text; `decode_shard` gives it back."""
    return json.dumps(shard)


def decode_shard(text: str) -> Shard:
    """What `encode_shard` was given."""
    path, split, rows = json.loads(text)
    return Shard(path, split, [ShardRow(*row) for row in rows])


def staging_path(folder: Path, task: int) -> Path:
    return folder / f"task-{task:06d}.parquet"


def write_staging(rows: Sequence[Candidate], path: Path) -> None:
    """The accepted rows of one task, in order. Uncompressed: the pictures are PNG and the files are read once."""
    write_table(pa.Table.from_pylist(list(rows), schema=CANDIDATES), path, compression="none")


def plan_shards(folder: str, split: str, rows: Sequence[ShardRow], rows_per_shard: int) -> list[Shard]:
    """Cut the rows of one split into files; an empty split is one empty file, so that its schema can be read."""
    starts = range(0, max(len(rows), 1), rows_per_shard)
    return [
        Shard(f"{folder}/{split}/part-{number:05d}.parquet", split, list(rows[start : start + rows_per_shard]))
        for number, start in enumerate(starts)
    ]


def write_shard(shard: Shard, staging: Path, output: Path) -> int:
    """Write one shard of samples or pictures; returns its number of rows."""
    final = FOLDERS[shard.path.split("/")[0]]
    table = pa.concat_tables([CANDIDATES.empty_table(), *_staged_rows(shard.rows, staging)])
    split = pa.array([shard.split] * len(shard.rows), pa.string())
    row_ids = pa.array([row.row_id for row in shard.rows], pa.string())
    columns = {schema.SPLIT: split, schema.SAMPLE_ID: row_ids, schema.IMAGE_ID: row_ids}
    arrays = [columns[name] if name in columns else table[name] for name in final.names]
    write_table(pa.Table.from_arrays(arrays, schema=final), output / shard.path, compression="zstd")
    return len(shard.rows)


def write_rows(rows: Iterable[dict[str, Any]], final: pa.Schema, path: Path) -> None:
    """A small table in one file."""
    write_table(pa.Table.from_pylist(list(rows), schema=final), path, compression="zstd")


def write_table(table: pa.Table, path: Path, compression: str) -> None:
    """Write aside, then rename: the name stands for a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, partial, compression=compression, write_page_checksum=True)
    os.replace(partial, path)


def _staged_rows(rows: Sequence[ShardRow], staging: Path) -> list[pa.Table]:
    """The rows, one table per run of rows of the same task."""
    runs: list[tuple[int, list[int]]] = []
    for row in rows:
        if not runs or runs[-1][0] != row.task:
            runs.append((row.task, []))
        runs[-1][1].append(row.position)
    return [
        pq.read_table(staging_path(staging, task), page_checksum_verification=True).take(positions)
        for task, positions in runs
    ]
