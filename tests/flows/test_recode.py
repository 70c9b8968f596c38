"""Stores in other codecs: `recode` writes what writing the tokens anew would; tools read it."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from typer.testing import CliRunner

from components.files.written import OutputError
from components.store import codecs
from components.store.provenance import StoreError, differences
from components.store.quantisation import Quantised
from components.store.rejects import Reject
from components.store.store_reader import StoreReader
from flows.recode import find_fit, recode
from fwd2bot.commands import app
from tests.components.store.stores import PROVENANCE, random_rows, write_store

CAUSAL = PROVENANCE.model_copy(
    update={"dim": 64, "model": {**PROVENANCE.model, "attention": "causal"}}
)
PARTS = [
    random_rows(["a", "b", "c"], 0, CAUSAL),
    random_rows([], 1, CAUSAL),
    random_rows(["d", "e"], 2, CAUSAL),
]
TOKENS = np.concatenate([part.summary_tokens for part in PARTS])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(
        tmp_path / "store", PARTS, CAUSAL, rejects=(Reject("x", "truncated", "half"),)
    )


@pytest.mark.parametrize("codec", codecs.CODECS)
def test_recode_equals_a_store_that_was_written_so(
    store: Path, tmp_path: Path, codec: codecs.Codec, local_ray: None
) -> None:
    manifest = recode(store, tmp_path / "new", codec, num_summary_tokens=2, num_workers=2)
    wanted = CAUSAL.model_copy(update={"codec": codec, "num_summary_tokens": 2})
    direct = [part._replace(summary_tokens=part.summary_tokens[:, :2]) for part in PARTS]
    other = StoreReader.open(
        write_store(tmp_path / "direct", direct, wanted, (Reject("x", "truncated", "half"),))
    )
    found = StoreReader.open(tmp_path / "new")
    found.verify()
    assert found.provenance == other.provenance == wanted
    np.testing.assert_array_equal(found.tokens(["e", "a"]), other.tokens(["e", "a"]))
    np.testing.assert_array_equal(found.embeddings(), other.embeddings())
    assert (manifest.rows_kept, manifest.rows_rejected) == (5, {"truncated": 1})
    assert manifest.settings["recoded_from"] == {"codec": "float16", "num_summary_tokens": 3}


@pytest.mark.parametrize("codec", codecs.CODECS)
def test_plain_pyarrow_reads_codes_and_scales(
    store: Path, tmp_path: Path, codec: codecs.Codec, local_ray: None
) -> None:
    recode(store, tmp_path / "new", codec, None, 1)
    table = ds.dataset(tmp_path / "new", format="parquet").to_table()
    codes, scales = codecs.encode(TOKENS, codec)
    assert table["image_id"].to_pylist() == ["a", "b", "c", "d", "e"]
    assert table["summary_tokens"].type.value_type == pa.from_numpy_dtype(codes.dtype)
    np.testing.assert_array_equal(
        table["summary_tokens"].to_pylist(), codes.reshape(len(codes), -1)
    )
    assert ("scales" in table.column_names) == (scales.size > 0)


def test_recode_refuses_what_cannot_be(store: Path, tmp_path: Path) -> None:
    for number in (0, 4):
        with pytest.raises(StoreError, match=f"{number} tokens: the store has 3 per picture"):
            recode(store, tmp_path / "new", "int8", number, 1)
    with pytest.raises(OutputError, match="store, which this run needs"):
        recode(store, store, "int8", 2, 1)
    for name, value in (
        ("attention", "bidirectional"),
        ("passes", "single"),
        ("method", "average_pooling"),
    ):
        no_prefixes = CAUSAL.model_copy(update={"model": {**CAUSAL.model, name: value}})
        other = write_store(tmp_path / name, PARTS, no_prefixes)
        with pytest.raises(StoreError, match="see each other"):
            recode(other, tmp_path / "new", "int8", 2, 1)


def test_recode_never_makes_a_fine_codec_of_a_coarse_one(
    store: Path, tmp_path: Path, local_ray: None
) -> None:
    recode(store, tmp_path / "coarse", "rotated2", None, 1)
    with pytest.raises(
        StoreError,
        match="the store is in rotated2, which has lost digits; recode the store it was made",
    ):
        recode(tmp_path / "coarse", tmp_path / "fine", "float16", None, 1)
    recode(tmp_path / "coarse", tmp_path / "short", "rotated2", 1, 1)
    coarse, short = (
        StoreReader.open(tmp_path / name).tokens(["a", "e"]) for name in ("coarse", "short")
    )
    np.testing.assert_allclose(short, coarse[:, :1], atol=1e-5)  # nothing more is lost


def test_recode_on_the_command_line_names_the_codecs(store: Path, tmp_path: Path) -> None:
    words = ["recode", str(store), str(tmp_path / "new"), "--codec", "int3"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    known = ", ".join((*codecs.CODECS, "fitted"))
    assert str(done.exception) == f"recode: --codec int3: this version knows {known}"


def long_store(folder: Path, start: int) -> Path:
    """Sixty pictures in two files, of which codecs can be fitted."""
    names = [f"{number:03d}" for number in range(start, start + 60)]
    return write_store(
        folder,
        [random_rows(names[:40], start, CAUSAL), random_rows(names[40:], start + 1, CAUSAL)],
        CAUSAL,
    )


def test_recode_fits_a_codec_and_another_store_takes_it_over(
    tmp_path: Path, local_ray: None
) -> None:
    store, more = long_store(tmp_path / "store", 0), long_store(tmp_path / "more", 60)
    fit = find_fit(store, 2, bytes_per_picture=24, fit_of=None, fit_pictures=50)
    recode(store, tmp_path / "one", "fitted", 2, 2, fit)
    recode(more, tmp_path / "two", "fitted", 2, 1, find_fit(more, 2, None, tmp_path / "one", 50))
    one, two = StoreReader.open(tmp_path / "one"), StoreReader.open(tmp_path / "two")
    assert one.provenance == two.provenance
    assert (
        one.provenance.fit_sha256
        == hashlib.sha256((tmp_path / "one" / "_fit.safetensors").read_bytes()).hexdigest()
    )
    tokens = StoreReader.open(store).tokens(one.ids)[:, :2]
    codes = codecs.encode(tokens, "fitted", fit).codes
    table = ds.dataset(tmp_path / "one", format="parquet").to_table()
    np.testing.assert_array_equal(
        table["summary_tokens"].to_pylist(), codes.reshape(len(codes), -1)
    )
    np.testing.assert_allclose(
        one.tokens(["059", "000"]), codecs.decode(codes_of(codes[[59, 0]]), "fitted", 64, fit)
    )
    # of noise, 1.5 bits a number
    assert np.linalg.norm(one.tokens(one.ids) - tokens) < 0.9 * np.linalg.norm(tokens)


def codes_of(codes: np.ndarray) -> Quantised:
    return Quantised(codes, np.empty((len(codes), 1, 0), np.float32))


def test_equal_stores_are_fitted_to_equal_bytes_and_others_do_not_mix(
    tmp_path: Path, local_ray: None
) -> None:
    store = long_store(tmp_path / "store", 0)
    for name, pictures in (("one", 60), ("again", 60), ("other", 30)):
        recode(store, tmp_path / name, "fitted", None, 1, find_fit(store, None, 16, None, pictures))
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "again")
    ]
    assert contents[0] == contents[1]
    one, other = StoreReader.open(tmp_path / "one"), StoreReader.open(tmp_path / "other")
    assert [line.split(":")[0] for line in differences(one.provenance, other.provenance)] == [
        "fit_sha256"
    ]
    (tmp_path / "one" / "_fit.safetensors").write_bytes(
        (tmp_path / "other" / "_fit.safetensors").read_bytes()
    )
    with pytest.raises(StoreError, match=r"_fit\.safetensors"):
        StoreReader.open(tmp_path / "one")


def test_a_fitted_codec_needs_a_fit_and_whole_digits(
    store: Path, tmp_path: Path, local_ray: None
) -> None:
    with pytest.raises(StoreError, match="either --bytes-per-picture or --fit-of"):
        find_fit(store, None, None, None, 50)
    with pytest.raises(StoreError, match="not in codec fitted, so it has no fit"):
        find_fit(store, None, None, store, 50)
    with pytest.raises(ValueError, match="4 pictures are too few"):
        find_fit(store, None, 8, None, 50)
    recode(store, tmp_path / "coarse", "int4", None, 1)
    with pytest.raises(StoreError, match="the store is in int4, which has lost digits"):
        find_fit(tmp_path / "coarse", None, 8, None, 50)
