"""Pace of reading a store: one picture of many, from a new or an open reader, and streaming.

    python -m benchmarks.store /scratch/somewhere

Writes a store of random tokens under the folder, reads it and removes it. A cold read is a new
process each time that opens the store and asks for one picture, after the kernel was asked to
forget the files; the time is taken inside the process, without the start of Python and the imports.
Beside it the plain way: pyarrow's dataset with a filter.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow.dataset as ds
import typer

from components.store import shards
from components.store import unfinished_store as work
from components.store.provenance import SCHEMA_VERSION, Provenance
from components.store.store_reader import StoreReader

ONE_READ = """
import sys, time
from components.store.store_reader import StoreReader
start = time.perf_counter()
StoreReader.open(sys.argv[1]).tokens([sys.argv[2]])
print(time.perf_counter() - start)
"""


def main(
    folder: Annotated[
        Path,
        typer.Argument(help="Where a few gigabytes can be written; the store is removed again."),
    ],
    num_pictures: Annotated[int, typer.Option(help="Of the store.")] = 100_000,
    num_summary_tokens: Annotated[int, typer.Option(help="Of a picture.")] = 4,
    dim: Annotated[int, typer.Option(help="Numbers of a token.")] = 4096,
    codec: Annotated[str, typer.Option(help="Of the tokens.")] = "float16",
    rows_per_shard: Annotated[int, typer.Option(help="Pictures of a file.")] = 1024,
    rows_per_row_group: Annotated[int, typer.Option(help="Pictures that are read at once.")] = 8,
    reads: Annotated[int, typer.Option(help="Random pictures, of each kind of reading.")] = 100,
) -> None:
    """Time random and streaming reads of a large store."""
    provenance = Provenance(
        schema_version=SCHEMA_VERSION,
        codec=codec,  # type: ignore[arg-type]  # checked by the schema
        fit_sha256=None,
        num_summary_tokens=num_summary_tokens,
        dim=dim,
        base="",
        model={},
        preprocessing={},
        compute={},
        libraries={},
    )

    # The store is random, and goes whatever happens.
    store = folder.resolve() / f"store-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        write(store, provenance, num_pictures, rows_per_shard, rows_per_row_group)
        size = sum(path.stat().st_size for path in store.iterdir())
        print(f"{num_pictures} pictures, {num_summary_tokens} × {dim} {codec}, {size / 1e9:.2f} GB")
        print("| read | median ms | 99th percentile ms |")
        print("|---|---|---|")
        drawn = np.random.default_rng(1).integers(0, num_pictures, reads).tolist()
        wanted = [picture_id(number) for number in drawn]
        show("one picture, new process, cold files", cold_reads(store, wanted))
        show("one picture, open reader", open_reads(store, wanted))
        show("pyarrow dataset with a filter, open", plain_reads(store, wanted[:10]))
        seconds = stream(store)
        raw = num_pictures * num_summary_tokens * dim * 4
        print(
            f"streaming: {size / seconds / 1e6:.0f} MB/s of the files, "
            f"{raw / seconds / 1e6:.0f} MB/s of float32"
        )
    finally:
        shutil.rmtree(store, ignore_errors=True)
        shutil.rmtree(work.partial_folder(store), ignore_errors=True)


def picture_id(number: int) -> str:
    """Make an id as a corpus of files has it."""
    return f"pictures/{number // 1000:05d}/{number:09d}.jpg"


def write(
    store: Path,
    provenance: Provenance,
    num_pictures: int,
    rows_per_shard: int,
    rows_per_row_group: int,
) -> None:
    """Write a store of normally distributed tokens, by the functions that `compress` calls."""
    rng = np.random.default_rng(0)
    with work.work_folder(store, "benchmark") as place:
        reports = []
        for number, start in enumerate(range(0, num_pictures, rows_per_shard)):
            stop = min(start + rows_per_shard, num_pictures)
            ids = [picture_id(picture) for picture in range(start, stop)]
            shape = (len(ids), provenance.num_summary_tokens, provenance.dim)
            sizes = np.full(len(ids), 336, np.int32)
            tokens = shards.TokenRows(ids, sizes, sizes, rng.standard_normal(shape, np.float32))
            rows, _ = shards.encode_rows(tokens, provenance.codec)
            data = shards.shard_bytes(rows, provenance, rows_per_row_group)
            reports.append(work.finish_shard(place, number, data, rows.image_ids, []))
        work.publish_store(
            place, store, provenance, {"kind": "random", "rows": num_pictures}, {}, reports, []
        )


def cold_reads(store: Path, wanted: list[str]) -> Iterator[float]:
    """Time opening the store and reading one picture, each in a process of its own."""
    for image_id in wanted:
        forget(store)
        done = subprocess.run(
            [sys.executable, "-c", ONE_READ, str(store), image_id],
            check=True,
            capture_output=True,
            text=True,
        )
        yield float(done.stdout)


def open_reads(store: Path, wanted: list[str]) -> Iterator[float]:
    """Time one picture each, from a reader that has served these files before."""
    reader = StoreReader.open(store)
    reader.tokens(wanted)
    for image_id in wanted:
        start = time.perf_counter()
        reader.tokens([image_id])
        yield time.perf_counter() - start


def plain_reads(store: Path, wanted: list[str]) -> Iterator[float]:
    """Time one picture each by pyarrow alone."""
    dataset = ds.dataset(store, format="parquet")
    for image_id in wanted:
        start = time.perf_counter()
        dataset.to_table(filter=ds.field("image_id") == image_id)
        yield time.perf_counter() - start


def stream(store: Path) -> float:
    """Time reading and decoding every token once."""
    forget(store)
    start = time.perf_counter()
    for _ in StoreReader.open(store).iter_batches():
        pass
    return time.perf_counter() - start


def forget(store: Path) -> None:
    """Ask the kernel to drop its copies of the files."""
    for path in store.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def show(name: str, seconds: Iterator[float]) -> None:
    """Print a line of the table."""
    times = [1000 * each for each in seconds]
    print(
        f"| {name} | {statistics.median(times):.2f} | {np.percentile(times, 99):.2f} |", flush=True
    )


if __name__ == "__main__":
    typer.run(main)
