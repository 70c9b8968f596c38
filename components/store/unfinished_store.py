"""Unfinished stores: finished shards survive a killed run, and the store appears by one rename.

`<output>.partial/<fingerprint>/` stands beside the output on the same file system. The fingerprint
covers the model, the codec, the parameters, the code and the listing of the corpus, so that a run
never picks up the shards of another; those stay until they are removed by hand
(components/files/unfinished.py). In it
    aside/    files that are being written
    shards/   part-00000.parquet …, each whole; becomes the output folder
    done/     part-00000.json …, written after the shard: its rows, bytes, SHA-256 and rejects
    running/  which picture each decoder is at (components/files/row_watch.py)
Nothing else may lie beside the fingerprints: a folder of that name with other things in it is
somebody else's. A shard counts as done only if its note is there and its bytes still have the noted
hash. The manifest is written last.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from components.files.atomic import sha256_of
from components.files.outputs import check_replaceable, checked_place, only_writer
from components.files.unfinished import LOCK, TRASH, hold, is_work, leave, open_work
from components.files.written import OutputError
from components.store.manifest import (
    FIT,
    MANIFEST,
    REJECTS,
    Manifest,
    StoredShard,
    build_manifest,
    describe_file,
    publish,
    write_json,
)
from components.store.provenance import Provenance, StoreError
from components.store.rejects import Reject, reject_counts, rejects_json

_ASIDE, _SHARDS, _DONE, _RUNNING = "aside", "shards", "done", "running"


class ShardReport(NamedTuple):
    """A finished shard: its file, and the pictures that are not in it."""

    file: StoredShard
    rejects: list[Reject]


def shard_name(shard: int) -> str:
    """Return the file name of a shard, part-00000.parquet and so on."""
    return f"part-{shard:05d}.parquet"


def fingerprint(content: dict[str, Any]) -> str:
    """Return a short name for everything that decides the output of a run."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def new_store_place(output: Path, inputs: Iterable[Path | str]) -> Path:
    """Return the absolute place of a new store.

    Raises StoreError when something is there, and OutputError when it lies in the inputs.
    """
    output = checked_place(output, inputs)
    if output.exists() and any(output.iterdir()):
        raise StoreError(f"{output}: exists already; remove it, or choose another folder")
    return output


@contextmanager
def work_folder(output: Path, name: str) -> Iterator[Path]:
    """Open the work folder of a run; other runs' folders for `output` are listed and stay.

    Raises BusyError when another run writes to the same output, and OutputError when the folder
    holds other things than runs. A killed run frees its lock with its death.
    """
    check_replaceable(output)
    parent = partial_folder(output)
    with only_writer(output):
        check_runs(parent)

        # Held, so that nobody discards the folder meanwhile.
        with hold(parent):
            work = open_work(parent, name)
            for part in (_ASIDE, _SHARDS, _DONE):
                (work / part).mkdir(exist_ok=True)
            yield work
            leave(parent)  # unless this run's work is there still, or another's


def check_runs(parent: Path) -> None:
    """Raise OutputError for a folder in the way that holds anything but runs."""
    if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
        raise OutputError(f"{parent}: is in the way of unfinished work; move it")
    if not parent.exists():
        return

    foreign = []
    for entry in sorted(parent.iterdir()):
        if entry.name != LOCK and not _is_run(entry):
            foreign.append(entry.name)
    if foreign:
        raise OutputError(
            f"{parent}: holds {', '.join(foreign[:3])}, which is no unfinished work; move it"
        )


def partial_folder(output: Path) -> Path:
    """Return the folder of unfinished runs into `output`."""
    return output.with_name(f"{output.name}.partial")


def finish_shard(
    work: Path, shard: int, data: bytes, image_ids: Sequence[str], rejects: list[Reject]
) -> ShardReport:
    """Write the bytes of a shard into its file, then the note by which it counts as finished."""
    path = work / _SHARDS / shard_name(shard)
    publish(path, data, work / _ASIDE)

    first_id, last_id = (image_ids[0], image_ids[-1]) if image_ids else (None, None)
    described = describe_file(path, len(image_ids)).model_dump()
    report = ShardReport(StoredShard(**described, first_id=first_id, last_id=last_id), rejects)
    note = {"file": report.file.model_dump(), **rejects_json(rejects)}
    write_json(_note(work, shard), note, work / _ASIDE)
    return report


def finished_shard(work: Path, shard: int) -> ShardReport | None:
    """Return the report of a shard that an earlier run finished.

    None if it did not, or if the file is no longer what it wrote.
    """
    path, report = work / _SHARDS / shard_name(shard), noted_shard(work, shard)
    if report is None or not path.is_file():
        return None
    return report if sha256_of(path) == report.file.sha256 else None


def place_fit(work: Path, data: bytes) -> None:
    """Put the fit of codec `fitted` in its place, before the first shard is written with it."""
    publish(fit_path(work), data, work / _ASIDE)


def fit_path(work: Path) -> Path:
    """Return the place of the fit of a run's codec, if it has one."""
    return work / _SHARDS / FIT


def noted_shard(work: Path, shard: int) -> ShardReport | None:
    """Read the note of a shard, whatever became of its file; None if there is no note."""
    if not _note(work, shard).is_file():
        return None
    content = json.loads(_note(work, shard).read_bytes())
    rejects = [Reject(**reject) for reject in content["rejects"]]
    return ShardReport(StoredShard(**content["file"]), rejects)


def watch_path(work: Path, shard: int) -> Path:
    """Return the file that names the picture of a shard that is being decoded."""
    return work / _RUNNING / shard_name(shard)


def publish_store(
    work: Path,
    output: Path,
    provenance: Provenance,
    corpus: dict[str, Any],
    settings: dict[str, Any],
    reports: Sequence[ShardReport],
    rejects: list[Reject],
) -> Manifest:
    """Make the finished shards the store `output`.

    `rejects`: pictures that are in no shard. Raises StoreError for shards whose ids overlap.
    """
    folder, aside = work / _SHARDS, work / _ASIDE
    files, rejects = [], list(rejects)
    for report in reports:
        files.append(report.file)
        rejects += report.rejects
    write_json(folder / REJECTS, rejects_json(rejects), aside)

    manifest = build_manifest(
        provenance,
        corpus,
        settings,
        files,
        describe_file(folder / REJECTS, len(rejects)),
        reject_counts(rejects),
        describe_file(fit_path(work), 0) if fit_path(work).exists() else None,
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"), aside)

    # The rename comes last: a folder of the output's name is a finished store.
    _sync_folder(folder)
    _rename(folder, output)
    shutil.rmtree(work)
    return manifest


def _is_run(entry: Path) -> bool:
    """Return whether a run has made this folder, maybe just now."""
    if not entry.is_dir() or entry.is_symlink():
        return False
    return is_work(entry) or entry.name.endswith(TRASH) or not any(entry.iterdir())


def _note(work: Path, shard: int) -> Path:
    return work / _DONE / f"{shard_name(shard)}.json"


def _rename(folder: Path, output: Path) -> None:
    try:
        os.rename(folder, output)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise StoreError(
                f"{output}: appeared while the pictures were compressed; remove it and run again"
            ) from None
        raise
    _sync_folder(output.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
