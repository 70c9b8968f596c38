"""The workers of `compress` and `evaluate` in this process, where a test is not about Ray.

Put in the place of `run_workers` and `run_tasks`, they spare a process, whose imports take longer
than its work here. Pictures are decoded by Ray's tasks all the same. That Ray's workers give the
same bytes is tested in test_compress.py, test_evaluate.py and test_methods.py.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from components.compression.corpus import Shard
from components.evaluation.asking import Record
from components.evaluation.evaluation_settings import EvaluateParams
from flows.workers import compress_worker, evaluate_worker
from flows.workers.compress_worker import CompressParams, ImageCompressor
from flows.workers.evaluate_worker import EvaluationWorker


def finish_shards(
    params: CompressParams, task: compress_worker.Task, shards: Sequence[Shard]
) -> Iterator[dict[str, int]]:
    """Compress all shards with one model."""
    worker = ImageCompressor(params, task)
    for shard in shards:
        yield worker({"shard": json.dumps(shard._asdict())})


def ask_all(
    params: EvaluateParams,
    tasks: Sequence[evaluate_worker.Task],
    curated: Path,
    compressor: Path,
    store: Path,
) -> Iterator[Record]:
    """Put the questions of all tasks to one model after the other."""
    worker = EvaluationWorker(params.model_dump(), str(curated), str(compressor), str(store))
    for task in tasks:
        for row in worker(pa.Table.from_pylist([dict(task)])).to_pylist():
            yield Record(**row)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch, local_ray: None) -> None:
    monkeypatch.setattr("flows.compress.run_workers", finish_shards)
    monkeypatch.setattr("flows.evaluate.run_tasks", ask_all)
