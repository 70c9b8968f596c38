"""Job `recode`: a store with fewer bytes, or fewer tokens per picture, from a store; no picture is opened.

    python -m flows.recode data/compressed/test data/compressed/small --codec rotated4 --num-summary-tokens 2

Ray Data hands the files to tasks; a run that was killed goes on from the finished ones, and the store appears by one
rename. `answer` and `search` read the result as they read the original.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from components.compression.codecs import CODECS, Codec, token_bytes
from components.compression.manifest import REJECTS, Manifest
from components.compression.provenance import StoreError
from components.compression.recode import code_sha256, recode_shard, recoded_provenance, recoded_settings
from components.compression.rejects import read_rejects
from components.compression.store import TokenStore
from components.compression.work import fingerprint, finish_shard, finished_shard, publish_store, work_folder
from flows.cluster import run_tasks


def recode(folder: Path, output: Path, codec: Codec, num_summary_tokens: int | None, num_workers: int) -> Manifest:
    """Write the store `output`. Raises StoreError: damaged or unfit store, or something in the way."""
    folder, output = folder.resolve(), output.resolve()
    if output.exists():
        raise StoreError(f"{output}: exists already; remove it, or choose another folder")
    manifest = TokenStore.open(folder).manifest
    provenance = manifest.provenance
    kept = provenance.num_summary_tokens if num_summary_tokens is None else num_summary_tokens
    wanted = recoded_provenance(provenance, codec, kept)
    settings = recoded_settings(manifest, wanted)
    inputs = {"manifest": manifest.model_dump(mode="json"), "settings": settings, "code": code_sha256()}
    rows_per_row_group = int(manifest.settings["rows_per_row_group"])
    with work_folder(output, fingerprint(inputs)) as work:

        def run(piece: str) -> int:
            path = folder / manifest.files[int(piece)].name
            data, rows, rejects = recode_shard(path, provenance, wanted, rows_per_row_group)
            finish_shard(work, int(piece), data, rows, rejects)
            return rows

        numbers = range(len(manifest.files))
        todo = [number for number in numbers if finished_shard(work, number) is None]
        print(f"recode: {len(numbers)} files, {len(numbers) - len(todo)} of them from an earlier run", flush=True)
        for done, _ in enumerate(run_tasks(run, [str(number) for number in todo], num_workers), start=1):
            print(f"recode: {done}/{len(todo)} files", flush=True)
        reports = [report for number in numbers if (report := finished_shard(work, number)) is not None]
        if len(reports) < len(numbers):
            raise StoreError(f"{work}: not all files are whole; do all machines of the cluster share this folder?")
        rejects = read_rejects(folder / REJECTS)
        return publish_store(work, output, wanted, manifest.corpus, settings, reports, rejects)


def main(
    store: Annotated[Path, typer.Argument(help="Folder that `compress` wrote.")],
    output: Annotated[Path, typer.Argument(help="Folder for the new store; must not exist yet.")],
    codec: Annotated[str, typer.Option(help=f"One of {', '.join(CODECS)}.")],
    num_summary_tokens: Annotated[int | None, typer.Option(help="The first of the tokens; all if not given.")] = None,
    num_workers: Annotated[int, typer.Option(help="Files at a time, one CPU each.")] = 1,
) -> None:
    """Write a store in another codec, or with fewer tokens per picture."""
    if codec not in CODECS:
        sys.exit(f"recode: --codec {codec}: this version knows {', '.join(CODECS)}")
    try:
        manifest = recode(store, output, codec, num_summary_tokens, num_workers)
    except (ValueError, OSError) as error:
        sys.exit(f"recode: {error}")
    size = manifest.provenance.num_summary_tokens * token_bytes(manifest.provenance.codec, manifest.provenance.dim)
    print(f"recode: {output} holds {manifest.rows_kept} pictures in {len(manifest.files)} files, {size} bytes each")


if __name__ == "__main__":
    typer.run(main)
