"""Many queries from a file, and what they found as one table: a row per hit."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from components import schema
from components.retrieval.index import Hit
from components.retrieval.query import QueryError, checked_text

OUTPUTS = (".parquet", ".jsonl")
MAX_ROW_BYTES = 1 << 20  # of a hit; a query and an id are shorter
RESULTS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # from 1
        pa.field(schema.IMAGE_ID, pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
    ]
)


class Query(NamedTuple):
    """What to look for, and under which name."""

    query_id: str
    text: str


def read_queries(path: Path) -> list[Query]:
    """The queries of a file: of `.jsonl` the `text` and, if given, the `query_id` of each line, of any other the line.

    A query without an id is called by the number of its line, from 1. Raises QueryError, with the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise QueryError(f"{path}: is not UTF-8 text: {error}") from None
    queries = []
    for number, line in enumerate(lines, start=1):
        try:
            queries.append(_from_json(line, number) if path.suffix == ".jsonl" else Query(str(number), line))
            checked_text(queries[-1].text)
        except ValueError as error:
            raise QueryError(f"{path}, line {number}: {error}") from None
    if not queries:
        raise QueryError(f"{path}: holds no query")
    return queries


def results_table(queries: Sequence[Query], hits: Sequence[Sequence[Hit]]) -> pa.Table:
    """RESULTS: hits in order for each query in order."""
    rows = [
        {"query_id": query.query_id, "query": query.text, "rank": rank, **hit._asdict()}
        for query, found in zip(queries, hits, strict=True)
        for rank, hit in enumerate(found, start=1)
    ]
    return pa.Table.from_pylist(rows, RESULTS)


def check_output(path: Path) -> None:
    """Raises QueryError for a file name whose suffix says no format."""
    if path.suffix not in OUTPUTS:
        raise QueryError(f"--output {path}: ends in neither {' nor '.join(OUTPUTS)}")


def is_results(path: Path) -> bool:
    """Whether a file is what a search has written, in either format."""
    try:
        if path.suffix == ".parquet":
            return bool(pq.read_schema(path).equals(RESULTS))
        with path.open("rb") as stream:
            first = json.loads(stream.readline(MAX_ROW_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and list(first) == RESULTS.names


def write_results(path: Path, table: pa.Table, suffix: str) -> None:
    """Parquet or JSON lines, by the suffix."""
    if suffix == ".parquet":
        pq.write_table(table, path, compression="zstd")
    else:
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in table.to_pylist())
        path.write_text(text, encoding="utf-8")


def _from_json(line: str, number: int) -> Query:
    row = json.loads(line)
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise QueryError('is not an object with a "text"')
    return Query(str(row.get("query_id", number)), row["text"])
