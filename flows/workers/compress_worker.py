"""Workers of the job `compress`: tasks that decode on CPUs, and an actor that holds the model.

A shard goes through both: a task reads and decodes it, batch by batch, and no further ahead than
AHEAD batches; the actor that asked for it compresses them in their order and writes the finished
shard. So batches are cut inside a shard and no worker count changes a bit; a decoder that dies
takes no model with it.
"""

import json
import threading
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import ray
import torch
from pydantic import Field
from transformers.utils import logging as transformers_logging

from components.compression.batch_size import find_batch_size
from components.compression.compressor import compress_batches
from components.compression.corpus import Kind, Shard
from components.compression.corpus_content import note_content
from components.compression.corpus_sources import read_pictures
from components.compression.picture_decoding import Batch, Prepare, decode_batches
from components.files.row_watch import MAX_ATTEMPTS
from components.methods.checkpoint import load_compressor, load_preparer
from components.methods.method import Method
from components.model.adapters import COMPRESSION
from components.model.prepared import PreparedPictures
from components.params import Params
from components.pictures import PictureLimits
from components.store.codecs import FixedCodec
from components.store.provenance import Provenance
from components.store.shards import encode_rows, shard_bytes
from components.store.unfinished_store import finish_shard, watch_path

STARTS = "starts"  # in the work folder: a byte for every start of a worker in this run
AHEAD = 2  # decoded batches of a shard that wait for the model
PROBE_PICTURES = 8  # of which the largest input of the model is timed


class CompressParams(Params):
    """Settings of compression."""

    num_workers: Annotated[int, Field(ge=1)]  # models
    cpus_per_worker: Annotated[int, Field(ge=1)]  # also threads of the model
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)]
    decoders_per_worker: Annotated[int, Field(ge=1)]  # one CPU each
    dtype: Literal["float32", "bfloat16"]  # of the base model's weights
    # the first of the compressor's; all if null
    num_summary_tokens: Annotated[int, Field(ge=1)] | None
    codec: FixedCodec
    # pictures; null: the fastest that fits the memory
    batch_size: Annotated[int, Field(ge=1)] | None
    rows_per_shard: Annotated[int, Field(ge=1)]  # pictures per file
    rows_per_row_group: Annotated[int, Field(ge=1)]
    max_picture_bytes: Annotated[int, Field(ge=1)]
    max_restarts: Annotated[int, Field(ge=0)]  # of one worker that died
    max_reject_fraction: Annotated[float, Field(ge=0, le=1)]
    # folders that links to pictures may lead into
    allowed_roots: tuple[Annotated[str, Field(min_length=1)], ...]
    picture_suffixes: tuple[str, ...]  # lower case, with the dot
    pictures: PictureLimits

    def settings(self) -> dict[str, Any]:
        """Return the settings that decide the stored values and files; worker counts do not."""
        indifferent = {
            "num_workers",
            "decoders_per_worker",
            "max_restarts",
            "max_reject_fraction",
            "allowed_roots",
        }
        return self.model_dump(mode="json", exclude=indifferent)


class Task(Params):
    """The task of every worker of a run."""

    kind: Kind
    root: str
    work: Path
    provenance: Provenance
    compressor: Path
    base: str


class ImageCompressor:
    """A Ray Data worker: loads the model once, then finishes shards, several at a time."""

    def __init__(self, params: CompressParams, task: Task) -> None:
        self.params, self.task = params, task
        count_start(task.work, params.num_workers, params.max_restarts)
        self.model = load_model(params, task)
        self.one_at_a_time = threading.Lock()

    def __call__(self, row: dict[str, str]) -> dict[str, int]:
        """Finish {"shard": JSON of a Shard} in the work folder; return its number and counts."""
        shard = Shard(**json.loads(row["shard"]))

        # Pictures to batches, batches to tokens, tokens to rows, rows to the bytes of the file.
        decoder: Any = decode_shard.options(_generator_backpressure_num_objects=AHEAD)
        decoded = decoder.remote(self.params, self.task, row["shard"])
        digests: list[bytes] = []
        tokens, undecoded = compress_batches(self.model, self.turns(decoded, digests))
        rows, unstorable = encode_rows(tokens, self.params.codec)
        data = shard_bytes(rows, self.task.provenance, self.params.rows_per_row_group)

        # The note of the shard comes last: with it the shard counts as finished.
        rejects = sorted([*undecoded, *unstorable])
        note_content(self.task.work, shard.number, digests)
        finish_shard(self.task.work, shard.number, data, rows.image_ids, rejects)
        return {"number": shard.number, "rows": len(rows.image_ids), "rejects": len(rejects)}

    def turns(self, decoded: Iterator[ray.ObjectRef], digests: list[bytes]) -> Iterator[Batch]:
        """Yield batches as they are decoded; meanwhile another shard may use the model."""
        for reference in decoded:
            batch = ray.get(reference)
            digests += batch.digests
            with self.one_at_a_time:
                yield batch


def count_start(work: Path, num_workers: int, max_restarts: int) -> None:
    """Note that a worker of this run starts. Raises ValueError when they have died too often."""
    # Appending a byte is safe while several workers start at once.
    with (work / STARTS).open("ab") as starts:
        starts.write(b".")
    if (work / STARTS).stat().st_size > num_workers * (1 + max_restarts):
        raise ValueError(
            f"{work}: workers died more than compress.max_restarts {max_restarts} times each, for "
            "memory or by hand; give the same command again, with a smaller batch_size or fewer "
            "workers in params.yaml"
        )


@ray.remote(num_cpus=1, max_retries=MAX_ATTEMPTS)
def decode_shard(params: CompressParams, task: Task, shard: str) -> Iterator[Batch]:
    """Decode the batches of a shard; a picture that kills several processes becomes a reject."""
    planned = Shard(**json.loads(shard))
    pictures = read_pictures(
        task.kind, task.root, planned, params.max_picture_bytes, params.allowed_roots
    )

    # Every worker of a run cuts its shards into batches of one size.
    prepare, batch_size = preparer(task.compressor, task.base), params.batch_size
    assert batch_size, "the run finds the batch size before it starts"
    yield from decode_batches(
        pictures, prepare, params.pictures, batch_size, watch_path(task.work, planned.number)
    )


@lru_cache(maxsize=1)  # a worker process decodes many shards
def preparer(compressor: Path, base: str) -> Prepare:
    """Load the preparation of pictures for the model; it needs no weights."""
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    return load_preparer(compressor, base).prepare


def load_model(params: CompressParams, task: Task) -> Method:
    """Load the compressor of a run on this worker's device, its adapter merged into the weights."""
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(params.cpus_per_worker)
    device = torch.device("cuda" if params.gpus_per_worker else "cpu")
    dtype = getattr(torch, params.dtype)

    model = load_compressor(
        task.compressor, task.base, device, dtype, task.provenance.num_summary_tokens
    )

    # Merged, the adapter costs no time in the pass.
    model.adapters.merge(COMPRESSION)
    return model


@ray.remote(max_retries=MAX_ATTEMPTS)
def probe_batch_size(params: CompressParams, task: Task, shard: str) -> int:
    """Find the fastest batch size on the first pictures of a shard, on a worker like the run's."""
    model, planned = load_model(params, task), Shard(**json.loads(shard))
    pictures = read_pictures(
        task.kind, task.root, planned, params.max_picture_bytes, params.allowed_roots
    )

    # Batches of one picture, so that the largest can be told.
    watch = watch_path(task.work, planned.number)
    batches = decode_batches(pictures, model.prepare, params.pictures, 1, watch)
    decoded = (batch.pictures for batch in batches if batch.image_ids)
    samples = list(islice(decoded, PROBE_PICTURES))

    if not samples:
        raise ValueError(
            "no picture of the first file could be decoded; set compress.batch_size in params.yaml"
        )
    return find_batch_size(model, max(samples, key=num_values))


def num_values(pictures: PreparedPictures) -> int:
    """Count the numbers that the model reads."""
    return sum(tensor.numel() for tensor in pictures.tensors.values())
