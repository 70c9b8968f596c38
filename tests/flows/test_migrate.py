"""Job `migrate` on stores of older versions, which the code of those versions wrote and nobody changes any more."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.store.manifest import MANIFEST
from components.store.provenance import StoreError
from components.store.rejects import Reject
from components.store.token_store import TokenStore
from flows.migrate import migrate
from flows.verify import verify
from tests.components.store.stores import PROVENANCE, random_rows, write_store

OLD = Path("tests/components/compression/store_v1")
SECOND = Path("tests/components/compression/store_v2")  # of codec int8, the same rows
PARTS = [random_rows(["a", "b/1.png", "c", "d", "e"], 0), random_rows(["f", 'g "\n', "ü/ß.jpg"], 2)]


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


def test_the_old_store_is_the_one_of_version_1() -> None:
    digest = hashlib.sha256(b"".join(data for _, data in sorted(contents(OLD).items()))).hexdigest()
    assert digest == "9279d821689d0a8b5cb85c1734159313d9d55c516aaef189730b70ca934a7fbd"


def test_a_reader_says_what_to_do_with_an_old_store() -> None:
    with pytest.raises(
        StoreError, match=r"schema version 1, this version reads 3; .*flows\.migrate"
    ):
        TokenStore.open(OLD)


def test_migrated_store_is_what_is_written_today(tmp_path: Path) -> None:
    manifest = migrate(OLD, tmp_path / "new")
    today = write_store(tmp_path / "today", PARTS, PROVENANCE, (Reject("x", "truncated", "half"),))
    assert contents(tmp_path / "new") == contents(today)
    assert list(verify(tmp_path / "new", manifest, 1)) == []


def test_stored_values_stay_as_they_are(tmp_path: Path) -> None:
    migrate(OLD, tmp_path / "new")
    new, old = pq.read_table(tmp_path / "new"), pq.read_table(OLD)
    for name in new.column_names:
        assert new[name].to_pylist() == old[name].to_pylist()
    tokens = TokenStore.open(tmp_path / "new").tokens(["f", "a"])
    np.testing.assert_array_equal(tokens, [PARTS[1].summary_tokens[0], PARTS[0].summary_tokens[0]])


def test_a_store_of_version_2_is_migrated_with_its_scales(tmp_path: Path) -> None:
    manifest = migrate(SECOND, tmp_path / "new")
    int8 = PROVENANCE.model_copy(update={"codec": "int8"})
    today = write_store(tmp_path / "today", PARTS, int8, (Reject("x", "truncated", "half"),))
    assert contents(tmp_path / "new") == contents(today)
    assert list(verify(tmp_path / "new", manifest, 1)) == []


def test_damaged_and_newer_stores_and_those_of_today_are_refused(tmp_path: Path) -> None:
    migrate(OLD, tmp_path / "new")
    with pytest.raises(StoreError, match="has schema version 3 already"):
        migrate(tmp_path / "new", tmp_path / "newer")
    with pytest.raises(StoreError, match="exists already"):
        migrate(OLD, tmp_path / "new")
    shutil.copytree(OLD, tmp_path / "old")
    path = tmp_path / "old" / "part-00001.parquet"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"part-00001\.parquet: has changed since it was written"):
        migrate(tmp_path / "old", tmp_path / "other")
    text = (
        (OLD / "_manifest.json").read_text().replace('"schema_version": 1', '"schema_version": 99')
    )
    (tmp_path / "old" / "_manifest.json").write_text(text)
    with pytest.raises(
        StoreError, match="schema version 99, which this fwd2bot does not know; update it"
    ):
        migrate(tmp_path / "old", tmp_path / "other")


def test_a_killed_migration_goes_on(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "old")
    whole = (tmp_path / "old" / "part-00001.parquet").read_bytes()
    (tmp_path / "old" / "part-00001.parquet").write_bytes(b"cut")
    with pytest.raises(StoreError):
        migrate(tmp_path / "old", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "old" / "part-00001.parquet").write_bytes(whole)
    # was finished, is not read again
    (tmp_path / "old" / "part-00000.parquet").write_bytes(b"gone")
    migrate(tmp_path / "old", tmp_path / "new")
    np.testing.assert_array_equal(
        TokenStore.open(tmp_path / "new").tokens(["a"])[0], PARTS[0].summary_tokens[0]
    )


def edit(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((store / MANIFEST).read_bytes())
    change(manifest)
    (store / MANIFEST).write_text(json.dumps(manifest))


BROKEN_MANIFESTS: dict[str, Callable[[Path], object]] = {
    "nested": lambda store: (store / MANIFEST).write_text("[" * 100_000),
    "a list": lambda store: (store / MANIFEST).write_text("[]"),
    "no files": lambda store: edit(store, lambda manifest: manifest.pop("files")),
    "files of numbers": lambda store: edit(store, lambda manifest: manifest.update(files=[1])),
    "a file outside": lambda store: edit(
        store, lambda manifest: manifest["files"][0].update(name="../x.parquet")
    ),
    "a file that is gone": lambda store: (store / "part-00000.parquet").unlink(),
}


@pytest.mark.parametrize("damage", BROKEN_MANIFESTS.values(), ids=BROKEN_MANIFESTS)
def test_a_manifest_that_is_none_is_named_and_nothing_is_written(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    shutil.copytree(SECOND, tmp_path / "old")
    shutil.copy(tmp_path / "old" / "part-00000.parquet", tmp_path / "x.parquet")
    damage(tmp_path / "old")
    with pytest.raises(StoreError, match="old"):
        migrate(tmp_path / "old", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "x.parquet"]
