"""Job `recode`: a store with fewer bytes or tokens per picture, from a store; no picture is opened.

    python -m flows.recode data/compressed/test small --codec rotated4 --num-summary-tokens 2
    python -m flows.recode data/compressed/test small --codec fitted --bytes-per-picture 64
    python -m flows.recode data/compressed/more small2 --codec fitted --fit-of small

Ray Data hands the files to tasks; a run that was killed goes on from the finished ones, and the
store appears by one rename. `answer` and `search` read the result as they read the original. Codec
`fitted` is fitted to pictures of the store, or taken from another store: parts of one corpus that
are to be read together need one fit.
"""

import sys
from pathlib import Path

from components.files.code import code_sha256
from components.store.codecs import CODECS, FITTED, Codec, picture_bytes
from components.store.fit import Fit, fit_bytes, read_fit
from components.store.manifest import REJECTS, Manifest
from components.store.provenance import Provenance, StoreError
from components.store.recode import fit_codec, recode_shard, recoded_provenance, recoded_settings
from components.store.rejects import read_rejects
from components.store.shards import shard_bytes
from components.store.store_reader import StoreReader
from components.store.unfinished_store import (
    fingerprint,
    finish_shard,
    finished_shard,
    fit_path,
    new_store_place,
    place_fit,
    publish_store,
    work_folder,
)
from flows.running.cluster import run_tasks

ENTRIES = ("components.store.recode",)  # what it imports makes the shards


def recode(
    folder: Path,
    output: Path,
    codec: Codec,
    num_summary_tokens: int | None,
    num_workers: int,
    fit: Fit | None = None,
) -> Manifest:
    """Write the store `output`. Raises StoreError: damaged or unfit store, or one in the way."""
    # The old manifest decides what the new store can be.
    folder, output = folder.resolve(), new_store_place(output, [folder])
    manifest = StoreReader.open(folder).manifest
    if num_summary_tokens is None:
        num_summary_tokens = manifest.provenance.num_summary_tokens
    wanted = recoded_provenance(manifest.provenance, codec, num_summary_tokens, fit)
    settings = recoded_settings(manifest, wanted)

    # Whatever decides a byte of the output is in the name of the work folder.
    inputs = {
        "manifest": manifest.model_dump(mode="json"),
        "settings": settings,
        "fit": wanted.fit_sha256,
        "code": code_sha256(ENTRIES),
    }
    with work_folder(output, fingerprint(inputs)) as work:
        if fit is not None:
            place_fit(work, fit_bytes(fit))
        recode_files(folder, manifest, wanted, work, num_workers)

        # Tasks on other machines wrote the files: are they here, and whole?
        reports = []
        for number in range(len(manifest.files)):
            if report := finished_shard(work, number):
                reports.append(report)
        if len(reports) < len(manifest.files):
            raise StoreError(
                f"{work}: not all files are whole; do all machines of the cluster share this "
                "folder?"
            )

        rejects = read_rejects(folder / REJECTS)
        return publish_store(work, output, wanted, manifest.corpus, settings, reports, rejects)


def recode_files(
    folder: Path, manifest: Manifest, wanted: Provenance, work: Path, num_workers: int
) -> None:
    """Finish every file in the work folder, but for those that an earlier run finished."""
    rows_per_row_group = int(manifest.settings["rows_per_row_group"])
    provenance, files = manifest.provenance, manifest.files

    def run(piece: str) -> int:
        # A fit can be large, so tasks read it from the shared folder.
        path = folder / files[int(piece)].name
        fit = read_fit(fit_path(work).read_bytes()) if wanted.codec == FITTED else None
        rows, rejects = recode_shard(path, provenance, wanted, fit)
        data = shard_bytes(rows, wanted, rows_per_row_group, fit)
        finish_shard(work, int(piece), data, rows.image_ids, rejects)
        return len(rows.image_ids)

    # A run that was killed goes on from the files that it finished.
    todo = []
    for number in range(len(files)):
        if finished_shard(work, number) is None:
            todo.append(str(number))
    num_earlier = len(files) - len(todo)
    print(f"recode: {len(files)} files, {num_earlier} of them from an earlier run", flush=True)
    for done, _ in enumerate(run_tasks(run, todo, num_workers), start=1):
        print(f"recode: {done}/{len(todo)} files", flush=True)


def find_fit(
    folder: Path,
    num_summary_tokens: int | None,
    bytes_per_picture: int | None,
    fit_of: Path | None,
    fit_pictures: int,
) -> Fit:
    """Take the fit of another store, or fit codec `fitted` to this one. Raises StoreError."""
    # Stores with one fit can be read together.
    if fit_of is not None and bytes_per_picture is None:
        if (fit := StoreReader.open(fit_of).fit) is None:
            raise StoreError(f"{fit_of}: is not in codec {FITTED}, so it has no fit")
        return fit
    if fit_of is not None or bytes_per_picture is None:
        raise StoreError(f"--codec {FITTED} needs either --bytes-per-picture or --fit-of")

    # The error of pictures that were held out says what the codec costs.
    store = StoreReader.open(folder)
    kept = num_summary_tokens or store.provenance.num_summary_tokens
    fitting = fit_codec(store, kept, bytes_per_picture, fit_pictures)
    print(
        f"recode: fitted to {fitting.num_pictures} pictures: {len(fitting.fit.bits)} directions, "
        f"{fitting.fit.num_bytes} bytes; error of {fitting.num_held_out} other pictures "
        f"{fitting.error:.3f}",
        flush=True,
    )
    return fitting.fit


def main(
    store: Path,
    output: Path,
    codec: str,
    num_summary_tokens: int | None,
    bytes_per_picture: int | None,
    fit_of: Path | None,
    fit_pictures: int,
    num_workers: int,
) -> None:
    """Write a store in another codec, or with fewer tokens per picture."""
    if codec not in (*CODECS, FITTED):
        sys.exit(f"recode: --codec {codec}: this version knows {', '.join((*CODECS, FITTED))}")

    # The place is checked before a fit, which takes its time.
    new_store_place(output, [store, *([fit_of] if fit_of else [])])
    fit = None
    if codec == FITTED:
        fit = find_fit(store, num_summary_tokens, bytes_per_picture, fit_of, fit_pictures)
    manifest = recode(store, output, codec, num_summary_tokens, num_workers, fit)

    kept = manifest.provenance
    size = picture_bytes(kept.codec, kept.num_summary_tokens, kept.dim, fit)
    print(
        f"recode: {output} holds {manifest.rows_kept} pictures in {len(manifest.files)} files, "
        f"{size} bytes each"
    )


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("recode")
