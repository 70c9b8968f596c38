from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.search.batches import Query, is_results, read_queries, results_table, write_results
from components.search.index import Hit
from components.search.query import QueryError

QUERIES = [Query("1", "a dog\u2028on grass")]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_results_are_told_from_other_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"hits{suffix}"
    write_results(path, results_table(QUERIES, [[Hit("a", 0.5)]]), suffix)
    assert is_results(path)
    for text in (
        "",
        "mine",
        '{"text": "a dog"}\n',
        "[" * 100_000,
        "\x00\xff",
        '{"query_id": "1"}\n',
    ):
        path.write_text(text)
        assert not is_results(path)
    pq.write_table(pa.table({"query_id": ["1"]}), path)
    assert not is_results(path)
    assert not is_results(tmp_path)


@pytest.mark.parametrize("name", ["q.csv", "q.TSV", "q.json", "q.parquet"])
def test_a_table_is_not_taken_for_lines_of_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text\na red circle\n")
    with pytest.raises(QueryError, match="queries come as text, one a line, or as"):
        read_queries(tmp_path / name)


def test_the_case_of_a_suffix_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "q.JSONL").write_text('{"text": "a red circle"}\n')
    assert [query.text for query in read_queries(tmp_path / "q.JSONL")] == ["a red circle"]


def test_lines_that_end_with_carriage_returns_alone_are_not_one_query(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_bytes(b"a red circle\ra blue square\r")
    with pytest.raises(QueryError, match="line 1: a carriage return inside the line"):
        read_queries(tmp_path / "q.txt")
