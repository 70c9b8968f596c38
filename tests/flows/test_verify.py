"""Job `verify` on the command line: each damage of a whole store is named, none hides another."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.store.fit import fit_bytes
from components.store.manifest import describe_file, read_manifest
from components.store.recode import fit_codec, recode_shard, recoded_provenance
from components.store.rejects import Reject
from components.store.shards import shard_bytes
from components.store.store_reader import StoreReader
from components.store.unfinished_store import finish_shard, place_fit, publish_store, work_folder
from flows.verify import verify
from tests.components.store.stores import PROVENANCE, random_rows, shard_of, write_store

PARTS = [random_rows(["a", "b", "c"], 0), random_rows(["d", "e"], 1)]
FIRST, SECOND = "part-00000.parquet", "part-00001.parquet"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "store", PARTS, rejects=(Reject("x", "truncated", "half"),))


def faults(store: Path) -> list[str]:
    return list(verify(store, read_manifest(store), 2))


def edit_manifest(store: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = store / "_manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def put(store: Path, number: int, data: bytes) -> None:
    """Put another file in its place and let the manifest vouch for its bytes."""
    path = store / f"part-{number:05d}.parquet"
    path.write_bytes(data)
    entry = describe_file(path, PARTS[number].widths.size)
    edit_manifest(store, lambda manifest: manifest["files"][number].update(entry.model_dump()))


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_whole_store_ends_with_0_and_a_line(store: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.verify", str(store)], capture_output=True, text=True
    )
    size = sum(path.stat().st_size for path in store.iterdir() if path.name != "_manifest.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == (
        f"verify: {store} is whole: 2 files, {size} bytes, 6 pictures in = 5 kept + 1 rejected"
    )


def test_every_fault_is_a_line_and_the_end_is_1(store: Path) -> None:
    flip(
        store / FIRST,
        pq.ParquetFile(store / FIRST).metadata.row_group(0).column(3).data_page_offset + 60,
    )
    (store / SECOND).write_bytes((store / SECOND).read_bytes()[:-5])
    (store / "part-00002.parquet").write_bytes(b"mine")
    (store / "_rejects.json").unlink()
    edit_manifest(store, lambda manifest: manifest.update(rows_in=9))
    done = subprocess.run(
        [sys.executable, "-m", "flows.verify", str(store)], capture_output=True, text=True
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    wanted = [
        "_rejects.json is missing",
        "part-00002.parquet is not in the manifest",
        f"{SECOND} has ",
        "the manifest has rows_in 9, but rows_kept + rows_rejected are 6",
        "the manifest has corpus.rows 6, but rows_in are 9",
        f"{FIRST} has another SHA-256",
        f"{FIRST}: is damaged: ",
    ]
    for line, beginning in zip(lines, wanted, strict=False):
        assert beginning in line
    assert lines[len(wanted) :] == [
        f"verify: {store}: 7 faults; restore these files, or compress again"
    ]


@pytest.mark.parametrize("place", [0, 30, -1, -40])
def test_any_flipped_byte_is_found(store: Path, place: int) -> None:
    flip(store / SECOND, place)
    assert f"{SECOND} has another SHA-256" in faults(store)


def test_a_file_of_another_run_is_found_though_its_hash_fits(store: Path) -> None:
    other = PROVENANCE.model_copy(
        update={"model": {**PROVENANCE.model, "compression_sha256": "d" * 64}}
    )
    put(store, 0, shard_of(PARTS[0], other))
    (fault,) = faults(store)
    assert fault.startswith(
        f"{FIRST} was written by another run than the manifest says: model.compression_sha256"
    )


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        (
            ["a", "b", "b"],
            [
                "has the picture id 'b' twice",
                "holds the ids ('a', 'b'), the manifest says ('a', 'c')",
            ],
        ),
        (["b", "a", "c"], ["has the picture id 'a' behind 'b'", "holds the ids ('b', 'c')"]),
    ],
)
def test_ids_twice_or_out_of_order_are_found_though_the_hash_fits(
    store: Path, ids: list[str], wanted: list[str]
) -> None:
    table = pq.read_table(store / FIRST)
    column = pa.chunked_array([pa.array(ids)])
    damaged = io.BytesIO()
    pq.write_table(table.set_column(0, table.schema.field(0), column), damaged)
    put(store, 0, damaged.getvalue())
    assert all(
        wanted_fault in fault for wanted_fault, fault in zip(wanted, faults(store), strict=True)
    )


def test_wrong_counts_are_found(store: Path) -> None:
    edit_manifest(store, lambda manifest: manifest["files"][1].update(rows=3))
    edit_manifest(store, lambda manifest: manifest.update(rows_rejected={"non_finite": 1}))
    assert faults(store) == [
        "the manifest has rows_kept 5, but the rows of its files are 6",
        "_rejects.json has {'truncated': 1}, the manifest says {'non_finite': 1}",
        f"{SECOND} has 2 rows instead of 3",
    ]


def test_a_damaged_fit_is_found(tmp_path: Path) -> None:
    rows = random_rows([f"{number:03d}" for number in range(40)], 0)
    source = StoreReader.open(write_store(tmp_path / "source", [rows]))
    fit = fit_codec(source, 3, 8, 40).fit
    wanted = recoded_provenance(source.provenance, "fitted", 3, fit)
    with work_folder(tmp_path / "store", "run") as work:
        place_fit(work, fit_bytes(fit))
        rows, _ = recode_shard(tmp_path / "source" / FIRST, source.provenance, wanted, fit)
        data = shard_bytes(rows, wanted, 2, fit)
        reports = [finish_shard(work, 0, data, rows.image_ids, [])]
        publish_store(work, tmp_path / "store", wanted, {"rows": 40}, {}, reports, [])
    assert faults(tmp_path / "store") == []
    flip(tmp_path / "store" / "_fit.safetensors", 300)
    (fault,) = faults(tmp_path / "store")
    assert "_fit.safetensors: is not the fit" in fault


def test_a_folder_that_is_no_store_ends_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.verify", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"verify: {tmp_path}: has no _manifest.json, so it is no finished store; "
        "run `flows.compress` on its pictures again\n"
    )
