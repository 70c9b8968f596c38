"""Pace of the Ray Data job against a bare loop over the same model, batches and shards.

    python -m benchmarks.compression_job --workers 2      (after `make repro`)

The pictures are those of the demo's test split, over and over, in a Parquet file. The job is
`flows.compress`; the bare loop is as many processes, each of which takes its shards from memory.
The rate counts from when every worker has finished a shard, so that neither the start of Ray nor
loading is in it; the start is shown apart.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer

from benchmarks.compression import ours, provenance
from benchmarks.picture_workloads import DEMO_COMPRESSOR, demo_workload
from components import schema
from components.model.adapters import COMPRESSION
from components.store.shards import encode_rows, shard_bytes
from components.store.store_reader import StoreReader
from flows.compress import compress
from flows.running.cluster import connect
from flows.workers.compress_worker import CompressParams

End = tuple[float, int]  # when a shard was whole, and its pictures
REQUIRED = 0.9


def steady_rate(ends: Sequence[End], num_workers: int) -> float:
    """Compute pictures per second from when every worker should have finished a shard."""
    ordered = sorted(ends)
    first, *rest = ordered[num_workers - 1 :]
    return sum(count for _, count in rest) / (rest[-1][0] - first[0])


def run_job(params: CompressParams, corpus: Path, output: Path) -> list[End]:
    """Run the flow; a file of the store keeps the time at which it was whole."""
    compress(params, str(corpus), DEMO_COMPRESSOR, output, None)
    files = StoreReader.open(output).manifest.files
    return [((output / file.name).stat().st_mtime, file.rows) for file in files if file.rows]


def run_bare(params: CompressParams, num_pictures: int) -> list[End]:
    """Run the loop, in a process per worker."""
    work = partial(bare_worker, params, num_pictures)
    with ProcessPoolExecutor(params.num_workers, get_context("spawn")) as pool:
        return list(chain.from_iterable(pool.map(work, range(params.num_workers))))


def bare_worker(params: CompressParams, num_pictures: int, worker: int) -> list[End]:
    torch.set_num_threads(params.cpus_per_worker)
    workload = demo_workload(num_pictures)._replace(params=params)
    model, size, ends = workload.build(), params.rows_per_shard, []
    model.adapters.merge(COMPRESSION)
    for start in range(worker * size, num_pictures, params.num_workers * size):
        tokens = ours(workload, model, workload.pictures[start : start + size])
        rows, _ = encode_rows(tokens, params.codec)
        shard_bytes(rows, provenance(workload, model), params.rows_per_row_group)
        ends.append((time.time(), len(rows.image_ids)))
    return ends


def write_corpus(num_pictures: int, path: Path) -> None:
    """Write the pictures as a user has them, in a Parquet file."""
    pictures = demo_workload(num_pictures).pictures
    columns = {
        schema.IMAGE_ID: [item.image_id for item in pictures],
        schema.IMAGE: [item.load() for item in pictures],
    }
    pq.write_table(pa.table(columns), path, row_group_size=256)


def report(num_pictures: int, num_workers: int, rounds: int) -> dict[str, Any]:
    """Measure both in turns."""
    params = demo_workload(1).params.model_copy(update={"num_workers": num_workers})
    rates: dict[str, list[float]] = {"job": [], "bare loop": []}

    # The start of Ray is shown apart.
    started = time.perf_counter()
    connect(log_to_driver=False)
    ray_start = time.perf_counter() - started

    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "pictures.parquet"
        write_corpus(num_pictures, corpus)
        first_shards = []
        for number in range(rounds):
            began = time.time()
            ends = run_job(params, corpus, Path(folder) / f"store-{number}")
            first_shards.append(min(ends)[0] - began)
            rates["job"].append(steady_rate(ends, num_workers))
            rates["bare loop"].append(steady_rate(run_bare(params, num_pictures), num_workers))

    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "pictures": num_pictures,
        "workers": num_workers,
        "rounds": rates,
        "pictures_per_second": {**medians, "ratio": medians["job"] / medians["bare loop"]},
        "ray_start_seconds": ray_start,
        "first_shard_seconds": statistics.median(first_shards),
    }


def main(
    pictures: Annotated[int, typer.Option(help="Per round.")] = 8192,
    workers: Annotated[int, typer.Option(help="Processes with a model each.")] = 2,
    rounds: Annotated[int, typer.Option(help="Turns of both.")] = 3,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the figures there too.")
    ] = None,
) -> None:
    """Measure and print."""
    figures = report(pictures, workers, rounds)
    rates = figures["pictures_per_second"]
    shard_size = demo_workload(1).params.rows_per_shard
    print(f"{pictures} pictures, {workers} workers, shards of {shard_size}")
    print(
        f"starting Ray: {figures['ray_start_seconds']:.1f} s; the first shard: "
        f"{figures['first_shard_seconds']:.1f} s"
    )
    print(
        f"steady: job {rates['job']:.1f} pictures/s, bare loop {rates['bare loop']:.1f} pictures/s"
    )
    print(f"job / bare loop: {rates['ratio']:.2f} (required: {REQUIRED:.2f})")
    if json_path:
        json_path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    typer.run(main)
