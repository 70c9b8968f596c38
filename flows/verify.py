"""Job `verify`: read every byte of a store and name all that is wrong with it, a line a fault.

    python -m flows.verify data/compressed/test --num-threads 8

Checked are names, sizes and SHA-256 of the files, page checksums, schema and provenance of each,
picture ids (in order, none twice), tokens (finite), the list of rejects, and that rows in = rows
kept + rows rejected. Ends with 0 when the store is whole and with 1 when it is not. Threads are
enough: hashing and decompressing leave Python's lock free.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.store.manifest import Manifest, StoredShard, all_files, read_manifest
from components.store.verification import file_content_faults, folder_faults, intact_fit
from flows.running.progress import Progress


def verify(folder: Path, manifest: Manifest, num_threads: int) -> Iterator[str]:
    """Yield every fault as it is found, and print progress."""
    # Faults of the folder need little reading, so they come first.
    yield from folder_faults(folder, manifest)

    # Without its fit a store of codec `fitted` is still hashed, but not decoded.
    fit = intact_fit(folder, manifest)

    def check(file: StoredShard) -> tuple[int, list[str]]:
        return file.bytes, file_content_faults(folder / file.name, file, manifest, fit)

    # `map` keeps the order of the files, so that two runs print the same lines.
    total, done = sum(file.bytes for file in manifest.files), 0
    progress = Progress("verify", "MB", total)
    with ThreadPoolExecutor(num_threads) as pool:
        for num_bytes, faults in pool.map(check, manifest.files):
            yield from faults
            done += num_bytes
            progress.show(done, f"{done / 1e6:.0f}/{total / 1e6:.0f} MB", done / 1e6)


def main(store: Path, num_threads: int) -> None:
    """Read every byte of a store; a line for each fault."""
    manifest = read_manifest(store)

    num_faults = 0
    for fault in verify(store, manifest, num_threads):
        print(f"verify: {store}: {' '.join(fault.split())}", file=sys.stderr)
        num_faults += 1
    if num_faults:
        sys.exit(f"verify: {store}: {num_faults} faults; restore these files, or compress again")

    size = sum(file.bytes for file in all_files(manifest))
    rejected = sum(manifest.rows_rejected.values())
    print(
        f"verify: {store} is whole: {len(manifest.files)} files, {size} bytes, "
        f"{manifest.rows_in} pictures in = {manifest.rows_kept} kept + {rejected} rejected"
    )


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("verify")
