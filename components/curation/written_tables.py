"""Tables of the curation stage as Parquet: staging files of tasks, and the shards made of them.

Bytes depend on the rows alone: fixed order, fixed file names, no times. Every file appears whole or
not at all.
"""

import os
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import count, groupby, islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection

from components import schema
from components.curation.candidates import CANDIDATES, CONTENT_SHA256, NEAR_HASH, REPAIRS
from components.curation.database import ROWS_AT_ONCE, stream_rows
from components.files.atomic import put_in_place, write_whole

SAMPLES, IMAGES = "samples", "images"
FOLDERS = {SAMPLES: schema.SAMPLES, IMAGES: schema.IMAGES}
ROWS_PER_GROUP = 256  # of a staging file: pictures that are in memory at a time
TASK, NUMBER, POSITION, ROW_ID = "task", "number", "position", "row_id"

# What decisions are made of: everything about a row but its picture and its text.
FACTS = pa.schema(
    [
        pa.field(TASK, pa.int32()),  # which piece of work read it
        pa.field(NUMBER, pa.int32()),  # which row of that piece
        # where in that piece's staging file; null when it is not there
        pa.field(POSITION, pa.int32()),
        CANDIDATES.field(schema.SAMPLE_ID),
        CANDIDATES.field(schema.SOURCE),
        CANDIDATES.field(schema.IMAGE_SHA256),
        CANDIDATES.field(NEAR_HASH),
        CANDIDATES.field(CONTENT_SHA256),
        CANDIDATES.field(REPAIRS),
        CANDIDATES.field(schema.REASON),
        CANDIDATES.field(schema.DETAIL),
    ]
)
# Where the rows of a shard are found, and the ids they get.
PLAN = pa.schema([FACTS.field(TASK), FACTS.field(POSITION), pa.field(ROW_ID, pa.string())])
PLANNED = {
    SAMPLES: "SELECT task, position, row_id FROM samples WHERE split = $split ORDER BY place",
    IMAGES: "SELECT task, position, sample_id FROM kept WHERE split = $split ORDER BY place",
}
SPLITS = (
    (SAMPLES, schema.TRAIN),
    (SAMPLES, schema.VALIDATION),
    (IMAGES, schema.TEST),
    (IMAGES, schema.VALIDATION),
)


class TableWriter:
    """A Parquet file that is written row by row and appears under its name when it is whole."""

    def __init__(self, path: Path, final: pa.Schema, compression: str, rows_per_group: int) -> None:
        self.path, self.schema, self.rows_per_group = path, final, rows_per_group
        self.rows: list[dict[str, Any]] = []  # not yet written
        self.num_rows = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self.partial = path.with_name(f".{path.name}.{os.getpid()}")
        self.writer = pq.ParquetWriter(
            self.partial, final, compression=compression, write_page_checksum=True
        )

    def __enter__(self) -> Self:
        return self

    def add(self, row: dict[str, Any]) -> int:
        """Add a row; return its position in the file."""
        self.rows.append(row)
        self.num_rows += 1
        if len(self.rows) == self.rows_per_group:
            self._flush()
        return self.num_rows - 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # the rows that are left; a table without any is written, too
        if error is None and (self.rows or not self.num_rows):
            self._flush()
        self.writer.close()

        if error is None:
            put_in_place(self.partial, self.path)
        else:
            self.partial.unlink()

    def _flush(self) -> None:
        self.writer.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.rows = []


def staging_path(folder: Path, task: int) -> Path:
    """Return the path of the accepted rows of a piece of work."""
    return folder / "accepted" / f"task-{task:06d}.parquet"


def facts_path(folder: Path, task: int) -> Path:
    """Return the path of the facts about the rows of a piece; the file appears when it is done."""
    return folder / "facts" / f"task-{task:06d}.parquet"


def plan_shards(database: DuckDBPyConnection, staging: Path, rows_per_shard: int) -> Iterator[str]:
    """Cut the rows that stay into files; yield their paths below the output folder.

    The plan of a file has the same path below `staging`/plan.
    """
    for folder, split in SPLITS:
        rows = stream_rows(database, PLANNED[folder], split=split)
        for number in count():
            part = [dict(zip(PLAN.names, row, strict=True)) for row in islice(rows, rows_per_shard)]
            # An empty split is one empty file, so that its schema can be read.
            if number > 0 and not part:
                break

            path = f"{folder}/{split}/part-{number:05d}.parquet"
            write_rows(part, PLAN, staging / "plan" / path)
            yield path


def write_shard(path: str, staging: Path, output: Path) -> int:
    """Write one planned file of samples or pictures; return its number of rows."""
    folder, split, _ = path.split("/")
    plan = pq.read_table(staging / "plan" / path)
    rows = zip(plan[TASK].to_pylist(), plan[POSITION].to_pylist(), strict=True)
    staged = pa.concat_tables([CANDIDATES.empty_table(), *_staged_rows(rows, staging)])

    # Ids and splits are decided late; all else stands in the staging files.
    splits = pa.array([split] * len(plan), pa.string())
    columns = {schema.SPLIT: splits, schema.SAMPLE_ID: plan[ROW_ID], schema.IMAGE_ID: plan[ROW_ID]}
    final = FOLDERS[folder]
    arrays = [columns[name] if name in columns else staged[name] for name in final.names]

    # One chunk: where the staging files were cut does not show in the bytes (below 2 GiB, which
    # Arrow's strings hold).
    table = pa.Table.from_arrays(arrays, schema=final).combine_chunks()
    _write_table(table, output / path)
    return len(plan)


def write_rows(rows: Iterable[dict[str, Any]], final: pa.Schema, path: Path) -> None:
    """Write a table row by row."""
    with TableWriter(path, final, "zstd", ROWS_AT_ONCE) as table:
        for row in rows:
            table.add(row)


def _write_table(table: pa.Table, path: Path) -> None:
    """Write a table aside, then rename it: the name stands for a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write = partial(pq.write_table, table, compression="zstd", write_page_checksum=True)
    write_whole(path, write, path.with_name(f".{path.name}.{os.getpid()}"))


def _staged_rows(rows: Iterable[tuple[int, int]], staging: Path) -> Iterator[pa.Table]:
    """Yield the rows (task, position), in order: a table per run of rows in one row group."""
    for task, run in groupby(rows, key=lambda row: row[0]):
        with pq.ParquetFile(staging_path(staging, task), page_checksum_verification=True) as file:
            # one row group in memory at a time
            for group, part in groupby(run, key=lambda row: row[1] // ROWS_PER_GROUP):
                positions = [position % ROWS_PER_GROUP for _, position in part]
                yield file.read_row_group(group).take(positions)
