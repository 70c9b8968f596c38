"""Stores in other codecs: what `recode` writes is what writing the tokens anew would, and the tools read it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from components.compression import codecs
from components.compression.provenance import StoreError
from components.compression.rejects import Reject
from components.compression.store import TokenStore
from flows.recode import recode
from tests.components.compression.stores import PROVENANCE, random_rows, write_store

CAUSAL = PROVENANCE.model_copy(update={"dim": 64, "model": {**PROVENANCE.model, "attention": "causal"}})
PARTS = [random_rows(["a", "b", "c"], 0, CAUSAL), random_rows([], 1, CAUSAL), random_rows(["d", "e"], 2, CAUSAL)]
TOKENS = np.concatenate([part.summary_tokens for part in PARTS])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path / "store", PARTS, CAUSAL, rejects=(Reject("x", "truncated", "half"),))


@pytest.mark.parametrize("codec", codecs.CODECS)
def test_recode_equals_a_store_that_was_written_so(
    store: Path, tmp_path: Path, codec: codecs.Codec, local_ray: None
) -> None:
    manifest = recode(store, tmp_path / "new", codec, num_summary_tokens=2, num_workers=2)
    wanted = CAUSAL.model_copy(update={"codec": codec, "num_summary_tokens": 2})
    direct = [part._replace(summary_tokens=part.summary_tokens[:, :2]) for part in PARTS]
    other = TokenStore.open(write_store(tmp_path / "direct", direct, wanted, (Reject("x", "truncated", "half"),)))
    found = TokenStore.open(tmp_path / "new")
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
    np.testing.assert_array_equal(table["summary_tokens"].combine_chunks().to_numpy_ndarray(), codes)
    assert ("scales" in table.column_names) == (scales.size > 0)


def test_recode_refuses_what_cannot_be(store: Path, tmp_path: Path) -> None:
    for number in (0, 4):
        with pytest.raises(StoreError, match=f"{number} tokens: the store has 3 per picture"):
            recode(store, tmp_path / "new", "int8", number, 1)
    with pytest.raises(StoreError, match="store: exists already"):
        recode(store, store, "int8", 2, 1)
    both_ways = CAUSAL.model_copy(update={"model": {**CAUSAL.model, "attention": "bidirectional"}})
    other = write_store(tmp_path / "bidirectional", PARTS, both_ways)
    with pytest.raises(StoreError, match="see each other"):
        recode(other, tmp_path / "new", "int8", 2, 1)


def test_recode_never_makes_a_fine_codec_of_a_coarse_one(store: Path, tmp_path: Path, local_ray: None) -> None:
    recode(store, tmp_path / "coarse", "rotated2", None, 1)
    with pytest.raises(
        StoreError, match="the store is in rotated2, which has lost digits; recode the store it was made"
    ):
        recode(tmp_path / "coarse", tmp_path / "fine", "float16", None, 1)
    recode(tmp_path / "coarse", tmp_path / "short", "rotated2", 1, 1)
    coarse, short = (TokenStore.open(tmp_path / name).tokens(["a", "e"]) for name in ("coarse", "short"))
    np.testing.assert_allclose(short, coarse[:, :1], atol=1e-5)  # nothing more is lost


def test_recode_on_the_command_line_names_the_codecs(store: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows.recode", str(store), str(tmp_path / "new"), "--codec", "int3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "recode: --codec int3: this version knows " + ", ".join(codecs.CODECS) + "\n"
