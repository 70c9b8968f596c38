from pathlib import Path

import pytest

from components.store.not_stored import dtype_wanted, reason_not_stored, write_reason
from components.store.provenance import StoreError
from components.store.store_reader import StoreReader


def test_a_reader_is_told_why_there_is_no_store(tmp_path: Path) -> None:
    write_reason(tmp_path / "store", "quecc", "its tokens depend on the question", "bfloat16")
    assert dtype_wanted(tmp_path / "store") == "bfloat16"
    assert reason_not_stored(tmp_path / "store") == "its tokens depend on the question"
    with pytest.raises(
        StoreError, match="nothing is stored here: its tokens depend on the question"
    ):
        StoreReader.open(tmp_path / "store")


def test_the_reason_may_be_written_again_but_never_over_a_store(tmp_path: Path) -> None:
    write_reason(tmp_path, "quecc", "one", "float32")
    write_reason(tmp_path, "fastv", "two", "float32")
    assert reason_not_stored(tmp_path) == "two"
    (tmp_path / "part-00000.parquet").touch()
    with pytest.raises(FileExistsError, match="holds a store"):
        write_reason(tmp_path, "quecc", "one", "float32")


def test_a_folder_without_a_note_has_no_reason(tmp_path: Path) -> None:
    assert reason_not_stored(tmp_path) is None
    assert reason_not_stored(tmp_path / "none") is None
