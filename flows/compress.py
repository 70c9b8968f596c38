"""Stage and batch job `compress`: pictures -> summary tokens in a store that `search` and `answer` open.

    python -m flows.compress data/curated/images/test models/compressor data/compressed/test

The pictures are a folder of any common formats and sizes, or Parquet with the columns image_id and image. Ray Data
hands whole shards, planned by the order of the ids, to workers that load the model once; each writes its shard and a
note of it. A run that was killed goes on from the noted shards, and the store appears by one rename:
docs/decisions/0007-compress-writes-its-own-shards.md.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import ray
import torch
import typer
from pydantic import Field
from ray.data import ActorPoolStrategy
from transformers.utils import logging as transformers_logging

from components.compression.codecs import FixedCodec, code_type
from components.compression.compressor import compress_pictures
from components.compression.corpus import Corpus, Shard, corpus_identity, newest_change, plan_shards
from components.compression.identity import check_base, find_base, provenance_of
from components.compression.manifest import MANIFEST, Manifest
from components.compression.provenance import Provenance, StoreError, differences
from components.compression.rejects import Reject, reject_counts
from components.compression.shards import shard_bytes
from components.compression.sources import list_corpus, read_pictures
from components.compression.store import TokenStore
from components.compression.work import (
    ShardReport,
    fingerprint,
    finish_shard,
    finished_shard,
    publish_store,
    work_folder,
)
from components.model.checkpoint import load_compressor
from components.params import Params, load_params
from components.pictures import PictureLimits
from flows.cluster import connect
from flows.lifetime import die_with_parent

PROGRESS_SECONDS = 2.0  # between two lines
SHOWN_REJECTS = 5


class CompressParams(Params):
    """How a corpus is compressed."""

    num_workers: Annotated[int, Field(ge=1)]
    cpus_per_worker: Annotated[int, Field(ge=1)]  # also threads of the model
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)]
    dtype: Literal["float32", "bfloat16"]  # of the base model's weights
    num_summary_tokens: Annotated[int, Field(ge=1)] | None  # the first of the compressor's; all if null
    codec: FixedCodec
    batch_size: Annotated[int, Field(ge=1)]  # pictures
    decode_threads: Annotated[int, Field(ge=1)]
    rows_per_shard: Annotated[int, Field(ge=1)]  # pictures per file
    rows_per_row_group: Annotated[int, Field(ge=1)]
    max_picture_bytes: Annotated[int, Field(ge=1)]
    max_restarts: Annotated[int, Field(ge=0)]  # of one worker; a picture that crashes the decoder ends the job then
    max_reject_fraction: Annotated[float, Field(ge=0, le=1)]
    picture_suffixes: tuple[str, ...]  # lower case, with the dot
    pictures: PictureLimits

    def settings(self) -> dict[str, Any]:
        """What decides the stored values and files; worker counts do not."""
        indifferent = {"num_workers", "decode_threads", "max_restarts", "max_reject_fraction"}
        return self.model_dump(mode="json", exclude=indifferent)


class ImageCompressor:
    """A Ray Data worker: loads the model once, then turns planned shards into finished ones."""

    def __init__(self, params: dict[str, Any], task: dict[str, Any]) -> None:
        self.params = CompressParams.model_validate(params)
        self.kind, self.root, self.work = task["kind"], Path(task["root"]), Path(task["work"])
        self.provenance = Provenance.model_validate(task["provenance"])
        transformers_logging.disable_progress_bar()
        torch.set_num_threads(self.params.cpus_per_worker)
        device = torch.device("cuda" if self.params.gpus_per_worker else "cpu")
        dtype = getattr(torch, self.params.dtype)
        num_summary_tokens = self.provenance.num_summary_tokens
        self.model = load_compressor(Path(task["compressor"]), task["base"], device, dtype, num_summary_tokens)

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """{"shard": JSON of a Shard} -> {"report": JSON of its number}; the shard lies finished in the work folder."""
        shard = Shard(**json.loads(row["shard"]))
        params = self.params
        rows, rejects = compress_pictures(
            self.model,
            read_pictures(self.kind, self.root, shard, params.max_picture_bytes),
            limits=params.pictures,
            batch_size=params.batch_size,
            decode_threads=params.decode_threads,
            codec=params.codec,
        )
        data = shard_bytes(rows, self.provenance, params.rows_per_row_group)
        finish_shard(self.work, shard.number, data, len(rows.image_ids), rejects)
        return {"number": str(shard.number)}


def compress(params: CompressParams, images: Path, compressor: Path, output: Path, base: str | None) -> Manifest:
    """Compress a corpus into the store `output`; a finished store of the same corpus and model is left as it is.

    Raises ValueError (StoreError): bad corpus, no compressor, a different store in the way, too many rejects.
    """
    images, compressor, output = images.resolve(), compressor.resolve(), output.resolve()
    provenance = provenance_of(compressor, params.codec, params.dtype, params.num_summary_tokens)
    code_type(params.codec, provenance.num_summary_tokens, provenance.dim)  # raises now, not after the first shard
    corpus = list_corpus(images, params.picture_suffixes)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        return check_finished(params, provenance, corpus, output)
    base = find_base(compressor, base)
    check_base(compressor, base)
    inputs = _inputs(params, provenance, corpus)
    with work_folder(output, fingerprint({**inputs, "files": corpus.files})) as work:
        task = {
            "kind": corpus.kind,
            "root": str(corpus.root),
            "work": str(work),
            "provenance": provenance.model_dump(),
            "compressor": str(compressor),
            "base": base,
        }
        reports = compress_shards(params, task, list(plan_shards(corpus, params.rows_per_shard)), work)
        if differences(provenance, provenance_of(compressor, params.codec, params.dtype, params.num_summary_tokens)):
            raise StoreError(f"{compressor}: changed while it was in use; run again")
        check_rejects(corpus, reports, params.max_reject_fraction)
        description = {**inputs["corpus"], "skipped_files": corpus.skipped}
        return publish_store(work, output, provenance, description, inputs["settings"], reports, corpus.rejects)


def check_finished(params: CompressParams, provenance: Provenance, corpus: Corpus, output: Path) -> Manifest:
    """The manifest of a store that already is what this run would write. Raises StoreError for anything else."""
    store = TokenStore.open(output)
    inputs = _inputs(params, provenance, corpus)
    differing = [
        f"{key}: {found.get(key)} != {value}"
        for found, wanted in ((store.manifest.corpus, inputs["corpus"]), (store.manifest.settings, inputs["settings"]))
        for key, value in wanted.items()
        if found.get(key) != value
    ]
    differing += differences(store.provenance, provenance)
    if newest_change(corpus) > (output / MANIFEST).stat().st_mtime_ns:
        differing.append("pictures have changed since")
    if differing:
        raise StoreError(
            f"{output}: holds another store (found != wanted): {'; '.join(differing)}; remove it, or choose another "
            "folder"
        )
    store.verify()
    return store.manifest


def compress_shards(params: CompressParams, task: dict[str, Any], shards: list[Shard], work: Path) -> list[ShardReport]:
    """Finish every shard; those that an earlier run finished are only checked."""
    todo = [shard for shard in shards if finished_shard(work, shard.number) is None]
    total, done = sum(len(shard.image_ids) for shard in shards), sum(len(shard.image_ids) for shard in todo)
    print(f"compress: {total} pictures in {len(shards)} files, {total - done} of them from an earlier run", flush=True)
    if todo:
        sizes = {shard.number: len(shard.image_ids) for shard in todo}
        show_progress((sizes[number] for number in run_workers(params, task, todo)), done)
    reports = [finished_shard(work, shard.number) for shard in shards]
    missing = [shard.number for shard, report in zip(shards, reports, strict=True) if report is None]
    if missing:
        raise StoreError(f"{work}: shards {missing} are not whole; do all machines of the cluster share this folder?")
    return [report for report in reports if report]


def run_workers(params: CompressParams, task: dict[str, Any], shards: list[Shard]) -> Iterator[int]:
    """The numbers of the shards as the workers finish them, in any order."""
    connect()
    rows = [{"shard": json.dumps(shard._asdict())} for shard in shards]
    finished = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        ImageCompressor,  # type: ignore[arg-type]  # Ray's signature knows functions only
        fn_constructor_args=(params.model_dump(), task),
        compute=ActorPoolStrategy(size=min(params.num_workers, len(shards))),
        num_cpus=params.cpus_per_worker,
        num_gpus=params.gpus_per_worker,
        max_restarts=params.max_restarts,
        max_task_retries=params.max_restarts,
    )
    for row in finished.iter_rows():
        yield int(row["number"])


def show_progress(sizes: Iterator[int], total: int) -> None:
    """Print pictures done, pace and time left as shards of these sizes are finished."""
    started = shown = time.monotonic()
    done = 0
    for size in sizes:
        done += size
        now = time.monotonic()
        if now - shown >= PROGRESS_SECONDS or done == total:
            pace = done / (now - started)
            print(
                f"compress: {done}/{total} pictures, {pace:.1f} pictures/s, {(total - done) / pace:.0f} s left",
                flush=True,
            )
            shown = now


def check_rejects(corpus: Corpus, reports: list[ShardReport], max_fraction: float) -> None:
    """Raises ValueError, by reason and with examples, when too many pictures or all of them cannot be compressed."""
    rejects: list[Reject] = [*corpus.rejects, *(reject for report in reports for reject in report.rejects)]
    rows_in = corpus.entries.num_rows + len(corpus.rejects)
    for reject in rejects[:SHOWN_REJECTS]:
        print(f"compress: reject {reject.image_id!r}: {reject.reason}: {reject.detail}", file=sys.stderr)
    if len(rejects) == rows_in or len(rejects) > max_fraction * rows_in:
        raise ValueError(
            f"{corpus.root}: {len(rejects)} of {rows_in} pictures cannot be compressed {reject_counts(rejects)}, more "
            f"than compress.max_reject_fraction {max_fraction:g}; repair or remove them, or raise it in params.yaml"
        )


def _inputs(params: CompressParams, provenance: Provenance, corpus: Corpus) -> dict[str, Any]:
    return {
        "provenance": provenance.model_dump(mode="json"),
        "corpus": corpus_identity(corpus),
        "settings": params.settings(),
    }


def main(
    images: Annotated[Path, typer.Argument(help="Folder of pictures, or Parquet with the columns image_id and image.")],
    compressor: Annotated[Path, typer.Argument(help="Folder that `train` wrote.")],
    output: Annotated[Path, typer.Argument(help="Folder for the store; must not exist yet.")],
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model, folder or hub id; otherwise the one the compressor names, beside it or on the hub."
        ),
    ] = None,
) -> None:
    """Compress pictures into a store of summary tokens, with the section `compress` of params.yaml."""
    die_with_parent()
    try:
        manifest = compress(load_params("compress", CompressParams), images, compressor, output, base)
    except (ValueError, OSError) as error:
        sys.exit(f"compress: {error}")
    except ray.exceptions.RayError as error:
        print(error, file=sys.stderr)
        sys.exit(f"compress: a worker failed: {str(error).strip().splitlines()[-1]}; run again to go on from here")
    kept = f"{manifest.rows_kept} of {manifest.rows_in} pictures in {len(manifest.files)} files"
    others = f", other files: {manifest.corpus['skipped_files']}" if manifest.corpus["skipped_files"] else ""
    print(f"compress: {output} holds {kept}, rejects: {manifest.rows_rejected or 0}{others}")


if __name__ == "__main__":
    typer.run(main)
