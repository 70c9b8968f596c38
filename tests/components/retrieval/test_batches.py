from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.retrieval.batches import Query, is_results, results_table, write_results
from components.retrieval.index import Hit

QUERIES = [Query("1", "a dog\u2028on grass")]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_results_are_told_from_other_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"hits{suffix}"
    write_results(path, results_table(QUERIES, [[Hit("a", 0.5)]]), suffix)
    assert is_results(path)
    for text in ("", "mine", '{"text": "a dog"}\n', "[" * 100_000, "\x00\xff", '{"query_id": "1"}\n'):
        path.write_text(text)
        assert not is_results(path)
    pq.write_table(pa.table({"query_id": ["1"]}), path)
    assert not is_results(path)
    assert not is_results(tmp_path)
