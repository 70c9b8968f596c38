"""Job `migrate`: a store of an older schema version, written anew in today's; no picture and no model is needed.

    python -m flows.migrate data/compressed/old data/compressed/new

File by file; stored values stay as they are, and every file is held against its old SHA-256 first.
A run that was killed goes on from the finished files. docs/store.md says what raises the version.
"""

from pathlib import Path
from typing import Annotated

import typer

from components.files.atomic import sha256_of
from components.files.code import code_sha256
from components.files.outputs import checked_place
from components.store.manifest import REJECTS, Manifest
from components.store.migration import migrated_provenance, migrated_shard, read_old_manifest
from components.store.provenance import SCHEMA_VERSION, StoreError
from components.store.rejects import read_rejects
from components.store.store_work import (
    fingerprint,
    finish_shard,
    finished_shard,
    publish_store,
    work_folder,
)
from flows.running.endings import ending
from flows.running.stored_corpus import run_job

ENTRIES = ("components.store.migration",)  # what it imports makes the shards


def migrate(folder: Path, output: Path) -> Manifest:
    """Write the store `output`. Raises StoreError: a damaged store, one of today, or something in the way."""
    folder, output = folder.resolve(), checked_place(output, [folder])
    if output.exists() and any(output.iterdir()):
        raise StoreError(f"{output}: exists already; remove it, or choose another folder")
    old = read_old_manifest(folder)
    wanted = migrated_provenance(old["provenance"], str(folder))
    rows_per_row_group = int(old["settings"]["rows_per_row_group"])
    with work_folder(output, fingerprint({"manifest": old, "code": code_sha256(ENTRIES)})) as work:
        reports = []
        for number, file in enumerate(old["files"]):
            if (report := finished_shard(work, number)) is None:
                _check(folder / file["name"], file["sha256"])
                data = migrated_shard(
                    folder / file["name"], old["provenance"], wanted, rows_per_row_group
                )
                report = finish_shard(work, number, data, file["rows"], [])
            reports.append(report)
            print(f"migrate: {number + 1}/{len(old['files'])} files", flush=True)
        _check(folder / REJECTS, old["rejects"]["sha256"])
        rejects = read_rejects(folder / REJECTS)
        return publish_store(work, output, wanted, old["corpus"], old["settings"], reports, rejects)


def _check(path: Path, sha256: str) -> None:
    if sha256_of(path) != sha256:
        raise StoreError(f"{path}: has changed since it was written; restore it")


@ending("migrate")
def main(
    store: Annotated[Path, typer.Argument(help="Folder of an older version.")],
    output: Annotated[Path, typer.Argument(help="Folder for the new store; new or empty.")],
) -> None:
    """Write a store of an older schema version anew in today's."""
    manifest = run_job("migrate", lambda: migrate(store, output))
    print(f"migrate: {output} holds {manifest.rows_kept} pictures, schema version {SCHEMA_VERSION}")


if __name__ == "__main__":
    typer.run(main)
