"""Stores: what is written is read back, by us and by plain pyarrow and pandas;

what is damaged or mixed is refused by name.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.store.manifest import MANIFEST
from components.store.provenance import SCHEMA_VERSION, StoreError
from components.store.rejects import Reject
from components.store.shards import encode_rows, shard_bytes
from components.store.store_reader import StoreReader, UnknownImageError
from tests.components.store.stores import PROVENANCE, random_rows, shard_of, write_store

PARTS = [
    random_rows(["a", "b/1.png", "c", "d", "e"], 0),
    random_rows([], 1),
    random_rows(["f", 'g "\n', "ü/ß.jpg"], 2),
]
IDS = [image_id for part in PARTS for image_id in part.image_ids]
TOKENS = np.concatenate([part.summary_tokens for part in PARTS])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(
        tmp_path / "store",
        PARTS,
        rejects=(Reject("x", "truncated", "half"), Reject("w", "non_finite", "")),
    )


def test_store_reads_back_what_was_written(store: Path) -> None:
    reader = StoreReader.open(store)
    assert reader.ids == IDS
    assert len(reader) == 8
    assert "c" in reader
    assert "x" not in reader
    assert reader.provenance == PROVENANCE
    rows = list(reader.iter_batches())
    np.testing.assert_array_equal(np.concatenate([batch.summary_tokens for batch in rows]), TOKENS)
    np.testing.assert_array_equal(
        np.concatenate([batch.widths for batch in rows]),
        np.concatenate([part.widths for part in PARTS]),
    )
    reader.verify()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(wanted=st.lists(st.sampled_from(range(len(IDS))), max_size=12))
def test_tokens_any_ids_in_any_order(store: Path, wanted: list[int]) -> None:
    found = StoreReader.open(store).tokens([IDS[row] for row in wanted])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, TOKENS[wanted])


def test_embeddings_are_normalised_means(store: Path) -> None:
    means = TOKENS.astype(np.float64).mean(1)
    expected = means / np.sqrt((means**2).sum(1, keepdims=True))
    np.testing.assert_allclose(StoreReader.open(store).embeddings(), expected, atol=1e-6)


def test_store_opens_in_plain_pyarrow_and_pandas(store: Path) -> None:
    table = pq.read_table(store, filters=[("image_id", "=", "c")])
    np.testing.assert_array_equal(table["summary_tokens"].to_pylist(), [TOKENS[2].reshape(-1)])
    frame = pd.read_parquet(store / "part-00000.parquet")
    np.testing.assert_array_equal(frame["summary_tokens"][1], TOKENS[1].reshape(-1))


def test_token_column_of_four_byte_floats_only_is_split_into_byte_streams(
    store: Path, tmp_path: Path
) -> None:
    def token_column(folder: Path) -> pq.ColumnChunkMetaData:
        return pq.ParquetFile(folder / "part-00000.parquet").metadata.row_group(0).column(3)

    column = token_column(store)
    assert (column.physical_type, column.compression) == ("FIXED_LEN_BYTE_ARRAY", "ZSTD")
    assert "BYTE_STREAM_SPLIT" not in column.encodings  # DuckDB does not read that of 2-byte floats
    whole = write_store(
        tmp_path / "float32", PARTS, PROVENANCE.model_copy(update={"codec": "float32"})
    )
    assert "BYTE_STREAM_SPLIT" in token_column(whole).encodings


def test_manifest_counts_every_row(store: Path) -> None:
    manifest = json.loads((store / "_manifest.json").read_text())
    assert (manifest["rows_in"], manifest["rows_kept"]) == (10, 8)
    assert manifest["rows_rejected"] == {"non_finite": 1, "truncated": 1}
    assert [
        reject["image_id"]
        for reject in json.loads((store / "_rejects.json").read_text())["rejects"]
    ] == ["w", "x"]


def test_same_rows_give_the_same_bytes(tmp_path: Path, store: Path) -> None:
    again = write_store(
        tmp_path / "again",
        PARTS,
        rejects=(Reject("w", "non_finite", ""), Reject("x", "truncated", "half")),
    )
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in store.iterdir()
    }


def test_unknown_id_names_the_nearest(store: Path) -> None:
    with pytest.raises(UnknownImageError, match=r"'b/1\.jpg'.*'b/1\.png'"):
        StoreReader.open(store).tokens(["b/1.jpg"])


def test_flipped_byte_in_a_page_is_caught_by_the_checksum(store: Path) -> None:
    path = store / "part-00000.parquet"
    data = bytearray(path.read_bytes())
    data[pq.ParquetFile(path).metadata.row_group(0).column(3).data_page_offset + 60] ^= 1
    path.write_bytes(data)
    reader = StoreReader.open(store)  # the tokens are not read yet
    with pytest.raises(StoreError, match=r"part-00000.*CRC"):
        reader.tokens(["a"])
    with pytest.raises(StoreError, match=r"part-00000.*has changed"):
        reader.verify()


def test_truncated_file_is_refused(store: Path) -> None:
    path = store / "part-00002.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"part-00002\.parquet has \d+ bytes instead of \d+"):
        StoreReader.open(store)


def test_same_size_garbage_is_refused(store: Path) -> None:
    path = store / "part-00002.parquet"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(StoreError, match=r"part-00002\.parquet: cannot be opened"):
        StoreReader.open(store).tokens(["f"])


def test_missing_and_stray_files_are_refused_and_hidden_ones_ignored(store: Path) -> None:
    (store / "_notes").write_text("mine")
    (store / ".cache").write_text("mine")
    StoreReader.open(store)
    (store / "part-00001.parquet").unlink()
    (store / "README").write_text("mine")
    with pytest.raises(
        StoreError, match=r"part-00001\.parquet is missing; README is not in the manifest"
    ):
        StoreReader.open(store)


def test_folder_without_manifest_is_no_store(store: Path, tmp_path: Path) -> None:
    (store / "_manifest.json").unlink()
    with pytest.raises(StoreError, match="no finished store"):
        StoreReader.open(store)
    with pytest.raises(StoreError, match="no such folder"):
        StoreReader.open(tmp_path / "nowhere")


@pytest.mark.parametrize("version", [1, SCHEMA_VERSION - 1, SCHEMA_VERSION + 1])
def test_manifest_of_another_schema_version_is_refused(store: Path, version: int) -> None:
    path = store / "_manifest.json"
    old, new = (f'"schema_version": {number}' for number in (SCHEMA_VERSION, version))
    path.write_text(path.read_text().replace(old, new))
    refusal = f"schema version {version}, this version reads {SCHEMA_VERSION}: compress .* again"
    with pytest.raises(StoreError, match=refusal):
        StoreReader.open(store)


def test_file_of_another_model_is_refused_with_the_difference(store: Path) -> None:
    other = PROVENANCE.model_copy(
        update={"model": {**PROVENANCE.model, "compression_sha256": "d" * 64}}
    )
    path = store / "part-00000.parquet"
    path.write_bytes(shard_of(PARTS[0], other))
    manifest = json.loads((store / "_manifest.json").read_text())
    manifest["files"][0]["bytes"] = path.stat().st_size
    (store / "_manifest.json").write_text(json.dumps(manifest))
    for read in (
        lambda reader: reader.ids,
        lambda reader: reader.tokens(["a"]),
        lambda reader: reader.embeddings(),
    ):
        with pytest.raises(
            StoreError, match=f'model.compression_sha256: "{"c" * 64}" != "{"d" * 64}"'
        ):
            read(StoreReader.open(store))


def test_an_id_twice_is_refused_when_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError,
        match=r"part-00001\.parquet begins with 'a', but part-00000.parquet ends with 'a'",
    ):
        write_store(tmp_path / "store", [random_rows(["a"], 0), random_rows(["a"], 1)])
    with pytest.raises(ValueError, match="none occurs twice"):
        shard_of(random_rows(["a", "a"], 0), PROVENANCE)


def test_files_whose_ids_overlap_are_refused(store: Path) -> None:
    manifest = json.loads((store / "_manifest.json").read_text())
    manifest["files"][2]["first_id"] = "e"
    (store / "_manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        StoreError,
        match=r"part-00002.parquet begins with 'e', but part-00000.parquet ends with 'e'",
    ):
        StoreReader.open(store)


def test_one_picture_touches_one_file(store: Path) -> None:
    (store / "part-00002.parquet").write_bytes(b"x" * (store / "part-00002.parquet").stat().st_size)
    reader = StoreReader.open(store)
    np.testing.assert_array_equal(reader.tokens(["b/1.png"])[0], TOKENS[1])
    assert "d" in reader
    assert "aa" not in reader
    assert "" not in reader
    assert "\U0010ffff" not in reader


def test_ids_longer_than_the_statistics_of_parquet_are_found(tmp_path: Path) -> None:
    ids = [f"{number}{'x' * 5000}" for number in range(6)]
    rows = random_rows(ids, 0)
    reader = StoreReader.open(write_store(tmp_path / "store", [rows]))
    np.testing.assert_array_equal(reader.tokens([ids[5], ids[0]]), rows.summary_tokens[[5, 0]])


@settings(max_examples=25, deadline=None)
@given(
    ids=st.sets(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1),
    cut=st.integers(0, 9),
)
def test_every_id_is_found_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, ids: set[str], cut: int
) -> None:
    ordered = sorted(ids)
    rows = [random_rows(part, 0) for part in (ordered[:cut], ordered[cut:])]
    reader = StoreReader.open(write_store(tmp_path_factory.mktemp("stores") / "store", rows))
    expected = np.concatenate([part.summary_tokens for part in rows])
    np.testing.assert_array_equal(reader.tokens(ordered[::-1]), expected[::-1])
    assert reader.ids == ordered
    for image_id in ordered:
        assert image_id in reader
        assert (f"{image_id}!" in reader) == (f"{image_id}!" in ids)


def test_tokens_that_do_not_fit_the_codec_become_rejects() -> None:
    tokens = PARTS[0].summary_tokens.copy()
    tokens[1] *= 1e6
    encoded, rejects = encode_rows(PARTS[0]._replace(summary_tokens=tokens), "float16")
    assert encoded.image_ids == ["a", "c", "d", "e"]
    assert rejects == [Reject("b/1.png", "non_finite", "the summary tokens do not fit float16")]


def test_rows_in_another_codec_are_refused() -> None:
    encoded, _ = encode_rows(PARTS[0], "int8")
    with pytest.raises(TypeError, match="Mismatching list value type"):
        shard_bytes(encoded, PROVENANCE, 2)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "", "{}"])
def test_a_manifest_that_is_none_is_said_in_words(store: Path, text: str) -> None:
    (store / MANIFEST).write_text(text)
    with pytest.raises(StoreError, match="cannot be read"):
        StoreReader.open(store)
