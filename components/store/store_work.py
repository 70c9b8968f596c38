"""The work folder of one compress run: finished shards survive a killed run, and the store appears by one rename.

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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from components.files.atomic import sha256_of
from components.files.outputs import check_replaceable, only_writer
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
from components.store.shards import end_ids

_ASIDE, _SHARDS, _DONE, _RUNNING = "aside", "shards", "done", "running"


class ShardReport(NamedTuple):
    """A finished shard: its file and what it could not take."""

    file: StoredShard
    rejects: list[Reject]


def shard_name(shard: int) -> str:
    """The file name of a shard, part-00000.parquet and so on."""
    return f"part-{shard:05d}.parquet"


def fingerprint(content: dict[str, Any]) -> str:
    """A short name for everything that decides the output of a run."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def work_folder(output: Path, name: str) -> Iterator[Path]:
    """The work folder of a run; those of other runs into `output` are listed and stay. No other may run meanwhile.

    Raises BusyError when another run writes to the same output, and OutputError when the folder
    holds other things than runs. A killed run frees its lock with its death.
    """
    check_replaceable(output)
    parent = partial_folder(output)
    with only_writer(output):
        check_runs(parent)
        with hold(parent):  # so that nobody discards it meanwhile
            work = open_work(parent, name)
            for part in (_ASIDE, _SHARDS, _DONE):
                (work / part).mkdir(exist_ok=True)
            yield work
            leave(parent)  # unless this run's work is there still, or another's


def check_runs(parent: Path) -> None:
    """Raises OutputError for a folder in the way that holds anything but runs."""
    if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
        raise OutputError(f"{parent}: is in the way of unfinished work; move it")
    entries = sorted(parent.iterdir()) if parent.exists() else []
    foreign = [entry.name for entry in entries if entry.name != LOCK and not _is_run(entry)]
    if foreign:
        raise OutputError(
            f"{parent}: holds {', '.join(foreign[:3])}, which is no unfinished work; move it"
        )


def partial_folder(output: Path) -> Path:
    """Where unfinished runs into `output` live."""
    return output.with_name(f"{output.name}.partial")


def finish_shard(
    work: Path, shard: int, data: bytes, rows: int, rejects: list[Reject]
) -> ShardReport:
    """Put the bytes of a shard in their place, then the note that says so."""
    path = work / _SHARDS / shard_name(shard)
    publish(path, data, work / _ASIDE)
    first_id, last_id = end_ids(data)
    shard_file = StoredShard(
        **describe_file(path, rows).model_dump(), first_id=first_id, last_id=last_id
    )
    report = ShardReport(shard_file, rejects)
    note = {"file": report.file.model_dump(), **rejects_json(rejects)}
    write_json(_note(work, shard), note, work / _ASIDE)
    return report


def finished_shard(work: Path, shard: int) -> ShardReport | None:
    """The report of a shard that an earlier run finished;

    None if it did not, or if the file is no longer what it wrote.
    """
    path, report = work / _SHARDS / shard_name(shard), noted_shard(work, shard)
    if report is None or not path.is_file():
        return None
    return report if sha256_of(path) == report.file.sha256 else None


def place_fit(work: Path, data: bytes) -> None:
    """Put what codec `fitted` was fitted to be in its place, before the first shard is written with it."""
    publish(fit_path(work), data, work / _ASIDE)


def fit_path(work: Path) -> Path:
    """Where a run keeps the fit of its codec, if it has one."""
    return work / _SHARDS / FIT


def noted_shard(work: Path, shard: int) -> ShardReport | None:
    """What the note of a shard says, whatever became of its file; None if there is no note."""
    if not _note(work, shard).is_file():
        return None
    content = json.loads(_note(work, shard).read_bytes())
    return ShardReport(
        StoredShard(**content["file"]), [Reject(**reject) for reject in content["rejects"]]
    )


def watch_path(work: Path, shard: int) -> Path:
    """Where it is noted which picture of a shard is being decoded."""
    return work / _RUNNING / shard_name(shard)


def publish_store(
    work: Path,
    output: Path,
    provenance: Provenance,
    corpus: dict[str, Any],
    settings: dict[str, Any],
    reports: Iterable[ShardReport],
    rejects: list[Reject],
) -> Manifest:
    """Make the finished shards the store `output`: rejects, then the manifest, then one rename.

    `rejects` are those that the plan of the shards had no place for. Raises StoreError for shards
    whose ids overlap.
    """
    reports = list(reports)
    folder, aside = work / _SHARDS, work / _ASIDE
    rejects = sorted([*rejects, *(reject for report in reports for reject in report.rejects)])
    write_json(folder / REJECTS, rejects_json(rejects), aside)
    rejects_file = describe_file(folder / REJECTS, len(rejects))
    manifest = build_manifest(
        provenance,
        corpus,
        settings,
        [report.file for report in reports],
        rejects_file,
        reject_counts(rejects),
        describe_file(fit_path(work), 0) if fit_path(work).exists() else None,
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"), aside)
    _sync_folder(folder)
    _rename(folder, output)
    shutil.rmtree(work)
    return manifest


def _is_run(entry: Path) -> bool:
    """Whether a run has made this folder, maybe just now; one of a version before has no marker."""
    if not entry.is_dir() or entry.is_symlink():
        return False
    return (
        is_work(entry)
        or entry.name.endswith(TRASH)
        or (entry / _ASIDE).is_dir()
        or not any(entry.iterdir())
    )


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
