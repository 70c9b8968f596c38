"""Stage and job `compress`: pictures -> summary tokens in a store for `search` and `answer`.

    python -m flows.compress data/curated/images/test models/compressor data/compressed/test
    python -m flows.compress 's3://bucket/cc3m/*.tar' models/compressor data/compressed/cc3m

Pictures come from a folder, Parquet, lists of places or tars
(components/compression/corpus_sources.py). Ray Data hands whole shards, planned by the order of the
ids, to workers that load the model once and let other processes decode
(flows/workers/compress_worker.py); each writes its shard and a note of it. A run that was killed
goes on from the noted shards, and the store appears by one rename:
docs/decisions/0007-compress-writes-its-own-shards.md.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from components.compression.corpus import Corpus, Shard, corpus_identity, num_listed, plan_shards
from components.compression.corpus_content import (
    CONTENT,
    FileStates,
    has_note,
    is_remembered,
    look_at_files,
    note_states,
    noted_content,
    read_content,
    remember,
)
from components.compression.corpus_sources import list_corpus
from components.compression.identity import check_base, find_base, provenance_of, read_config
from components.files.outputs import checked_place
from components.files.storage import is_uri
from components.methods.catalogue import code_of, method_class
from components.params import load_params
from components.store.codecs import code_type
from components.store.manifest import MANIFEST, Manifest, write_json
from components.store.not_stored import NOTE, reason_not_stored, write_reason
from components.store.provenance import Provenance, StoreError, differences
from components.store.rejects import reject_counts
from components.store.store_reader import StoreReader
from components.store.unfinished_store import (
    ShardReport,
    fingerprint,
    finished_shard,
    noted_shard,
    publish_store,
    work_folder,
)
from flows.running.allowed_roots import allowed_roots
from flows.running.cluster import check_resources, connect, run_tasks
from flows.running.lifetime import die_with_parent
from flows.running.progress import Progress
from flows.workers.compress_worker import (
    STARTS,
    CompressParams,
    ImageCompressor,
    Task,
    probe_batch_size,
)

BATCH_SIZE = "batch_size.json"  # in the work folder
ENTRIES = ("flows.workers.compress_worker",)  # what it imports makes the shards
SHOWN_REJECTS = 5


def compress(
    params: CompressParams, images: str, compressor: Path, output: Path, base: str | None
) -> Manifest | None:
    """Compress a corpus into the store `output`; a finished store of the same inputs stays.

    A method whose tokens depend on the question has nothing to store: the reason is left there
    instead, and None comes back. Raises ValueError (StoreError): bad corpus, no compressor, a
    different store in the way, too many rejects.
    """
    # Nothing is read before it is known that the output may be written.
    images = images if is_uri(images) else os.path.abspath(images)
    output = checked_place(output, [images, compressor, *([base] if base else [])])
    check_output(output)

    # What the compressor makes, from its files alone; a codec that cannot hold it is refused here.
    compressor = compressor.resolve()
    method = read_config(compressor).method.name
    if why := method_class(method).why_not_stored:
        write_reason(output, method, why, params.dtype)
        return None
    provenance = stored_provenance(params, compressor)
    code_type(provenance.codec, provenance.num_summary_tokens, provenance.dim)

    # The listing of the corpus decides whether a store that is there already is the one wanted.
    params = params.model_copy(update={"allowed_roots": allowed_roots(params.allowed_roots)})
    corpus = list_corpus(images, params.picture_suffixes, params.allowed_roots)
    states = look_at_files(corpus)
    if output.exists() and any(output.iterdir()):
        return check_finished(params, provenance, corpus, states, output)
    base = find_base(compressor, base)
    check_base(compressor, base)

    # A run goes on from the shards of one that was killed, if all that decides them is the same.
    inputs = {"files": corpus.files, "times": states.times, "code": code_of(ENTRIES, method)}
    run = fingerprint({**_inputs(params, provenance, corpus), **inputs})
    with work_folder(output, run) as work:
        # Pictures may have changed since a killed run read them, so its states count.
        states = note_states(work, states)
        task = Task(
            kind=corpus.kind,
            root=corpus.root,
            work=work,
            provenance=provenance,
            compressor=compressor,
            base=base,
        )
        shards = list(plan_shards(corpus, params.rows_per_shard))
        params = with_batch_size(params, task, shards)
        reports = compress_shards(params, task, shards)

        # The store says of itself what is true now that all is done.
        if differences(provenance, stored_provenance(params, compressor)):
            raise StoreError(f"{compressor}: changed while it was in use; run again")
        rows = check_rejects(corpus, reports, params.max_reject_fraction)
        description = {**corpus_identity(corpus), "rows": rows, "skipped_files": corpus.skipped}
        description[CONTENT] = noted_content(work, shards)
        manifest = publish_store(
            work, output, provenance, description, params.settings(), reports, corpus.rejects
        )
    remember(output, states)
    return manifest


def stored_provenance(params: CompressParams, compressor: Path) -> Provenance:
    """Return the provenance of the store, with the number of tokens that a picture has in it."""
    return provenance_of(compressor, params.codec, params.dtype, params.num_summary_tokens)


def check_output(output: Path) -> None:
    """Raise StoreError for a folder with other things than a store, before pictures are listed."""
    names = sorted(path.name for path in output.iterdir()) if output.exists() else []
    if names and MANIFEST not in names and NOTE not in names:
        raise StoreError(
            f"{output}: holds {', '.join(names[:3])}, and has no {MANIFEST}, so it is no finished "
            "store; choose another folder"
        )


def with_batch_size(params: CompressParams, task: Task, shards: list[Shard]) -> CompressParams:
    """Fill in the batch size; one that was found holds for the whole run, also after a kill."""
    if params.batch_size is not None or not shards:
        return params

    # The size is measured on a worker, since this process may have no GPU.
    note = task.work / BATCH_SIZE
    if not note.is_file():
        connect()
        worker = probe_batch_size.options(
            num_cpus=params.cpus_per_worker, num_gpus=params.gpus_per_worker
        )
        found = ray.get(worker.remote(params, task, json.dumps(shards[0]._asdict())))
        write_json(note, {"batch_size": found}, task.work)

    found = json.loads(note.read_bytes())["batch_size"]
    print(f"compress: {found} pictures a pass", flush=True)
    return params.model_copy(update={"batch_size": found})


def check_finished(
    params: CompressParams, provenance: Provenance, corpus: Corpus, states: FileStates, output: Path
) -> Manifest:
    """Return the manifest of a store that this run would write. Raises StoreError for another."""
    store = StoreReader.open(output)
    inputs = _inputs(params, provenance, corpus)

    differing = []
    for part in ("corpus", "settings"):
        found = getattr(store.manifest, part)
        for key, value in inputs[part].items():
            # A batch size of None takes whatever was found.
            if found.get(key) != value and (key, value) != ("batch_size", None):
                differing.append(f"{key}: {found.get(key)} != {value}")
    differing += differences(store.provenance, provenance)

    # Pictures are read only if everything else is the same.
    if not differing and not has_same_content(params, corpus, states, store.manifest, output):
        differing.append("pictures have changed since")
    if differing:
        raise StoreError(
            f"{output}: holds another store (found != wanted): {'; '.join(differing)}; remove it, "
            "or choose another folder"
        )
    store.verify()
    return store.manifest


def has_same_content(
    params: CompressParams, corpus: Corpus, states: FileStates, manifest: Manifest, output: Path
) -> bool:
    """Return whether the pictures are those of the store; untouched ones are not read."""
    if is_remembered(output, states):
        return True

    print(
        "compress: reads the pictures, to compare them with those that the store was made of",
        flush=True,
    )
    shards = list(plan_shards(corpus, params.rows_per_shard))
    found = read_content(corpus, shards, params.max_picture_bytes, params.allowed_roots)

    if found != manifest.corpus.get(CONTENT):
        return False
    remember(output, states)
    return True


def compress_shards(params: CompressParams, task: Task, shards: list[Shard]) -> list[ShardReport]:
    """Finish every shard; those that an earlier run finished are only checked."""
    # Bytes are hashed by the workers: a run may have thousands of finished shards.
    noted = []
    for shard in shards:
        if noted_shard(task.work, shard.number):
            noted.append(str(shard.number))
    whole = set(run_tasks(partial(check_shard, task.work), noted, params.num_workers))
    todo = [shard for shard in shards if shard.number not in whole]

    print(
        f"compress: {len(shards)} files to write, {len(shards) - len(todo)} of them whole from an "
        "earlier run",
        flush=True,
    )
    if todo:
        sizes = {shard.number: shard.size for shard in todo}
        show_progress(run_workers(params, task, todo), sizes)

    # The workers may be on other machines: are their files here?
    reports, missing = [], []
    for shard in shards:
        if report := noted_shard(task.work, shard.number):
            reports.append(report)
        else:
            missing.append(shard.number)

    if missing:
        raise StoreError(
            f"{task.work}: files {missing} are missing; do all machines of the cluster share this "
            "folder?"
        )
    return reports


def check_shard(work: Path, number: str) -> int:
    """Return the number of a shard whose bytes are those of its note, else -1."""
    return int(number) if finished_shard(work, int(number)) and has_note(work, int(number)) else -1


def run_workers(
    params: CompressParams, task: Task, shards: list[Shard]
) -> Iterator[dict[str, int]]:
    """Yield number and counts of each shard as the workers finish them, in any order."""
    connect()
    num_workers = min(params.num_workers, len(shards))
    check_resources(
        num_workers, params.cpus_per_worker + params.decoders_per_worker, params.gpus_per_worker
    )

    # Ray starts a worker that died again without end; the workers themselves count.
    (task.work / STARTS).unlink(missing_ok=True)
    rows = [{"shard": json.dumps(shard._asdict())} for shard in shards]
    finished = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        ImageCompressor,  # type: ignore[arg-type]  # Ray's signature knows functions only
        fn_constructor_args=(params, task),
        compute=ActorPoolStrategy(
            size=num_workers,
            max_concurrent_calls_per_actor=params.decoders_per_worker,
            # the worker itself lets one shard after the other use the model
            enable_true_multi_threading=True,
        ),
        num_cpus=params.cpus_per_worker,
        num_gpus=params.gpus_per_worker,
    )
    yield from finished.iter_rows()


def show_progress(finished: Iterable[dict[str, int]], sizes: dict[int, int]) -> None:
    """Print pictures done, pace, rejects and time left; `sizes`: of the shards, by number."""
    total, done, pictures, rejects = sum(sizes.values()), 0, 0, 0
    progress = Progress("compress", "pictures", total)
    for shard in finished:
        done += sizes[shard["number"]]
        pictures += shard["rows"] + shard["rejects"]
        rejects += shard["rejects"]
        fact = f"{done / total:.1%} of the files, {pictures} pictures, {rejects} of them rejects"
        progress.show(done, fact, pictures)


def check_rejects(corpus: Corpus, reports: list[ShardReport], max_fraction: float) -> int:
    """Count the pictures, rejects too, and show some rejects.

    Raises ValueError, by reason and with examples, when too many or all of them cannot be
    compressed.
    """
    rejects, rows_kept = list(corpus.rejects), 0
    for report in reports:
        rejects += report.rejects
        rows_kept += report.file.rows
    rows_in = len(rejects) + rows_kept
    assert num_listed(corpus) in (None, rows_in), "a picture was lost or counted twice"

    # A few rejects say more than their counts.
    for reject in rejects[:SHOWN_REJECTS]:
        print(
            f"compress: reject {reject.image_id!r}: {reject.reason}: {reject.detail}",
            file=sys.stderr,
        )

    if len(rejects) == rows_in or len(rejects) > max_fraction * rows_in:
        raise ValueError(
            f"{corpus.root}: {len(rejects)} of {rows_in} pictures cannot be compressed "
            f"{reject_counts(rejects)}, more than compress.max_reject_fraction {max_fraction:g}; "
            "repair or remove them, or raise it in params.yaml"
        )
    return rows_in


def _inputs(params: CompressParams, provenance: Provenance, corpus: Corpus) -> dict[str, Any]:
    """Collect the provenance, corpus and settings by which stores are compared."""
    return {
        "provenance": provenance.model_dump(mode="json"),
        "corpus": corpus_identity(corpus),
        "settings": params.settings(),
    }


def main(images: str, compressor: Path, output: Path, base: str | None) -> None:
    """Compress pictures into a store, with the section `compress` of params.yaml."""
    die_with_parent()
    manifest = compress(load_params("compress", CompressParams), images, compressor, output, base)
    if manifest is None:
        print(f"compress: nothing is stored in {output}: {reason_not_stored(output)}")
        return
    kept = f"{manifest.rows_kept} of {manifest.rows_in} pictures in {len(manifest.files)} files"
    skipped = manifest.corpus["skipped_files"]
    others = f", other files: {skipped}" if skipped else ""
    print(f"compress: {output} holds {kept}, rejects: {manifest.rows_rejected or 0}{others}")


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("compress")
