"""Files of many queries in, one table of their hits out: a row per hit."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from components import schema
from components.files.delimited import near_name
from components.files.lines import Fault, read_lines
from components.files.storage import is_unicode
from components.files.strict_json import read_json_lines
from components.search.index import Hit
from components.search.query import QueryError, checked_text

OUTPUTS = (".parquet", ".jsonl")
# formats whose lines are no queries
TABLES = (".csv", ".tsv", ".json", ".parquet", ".xlsx")
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
    """A text to search for, and its id."""

    query_id: str
    text: str


def read_queries(path: Path) -> list[Query]:
    """Read the queries of a file: each line of a text, or of `.jsonl` its `text` and `query_id`.

    Blank lines of `.jsonl` are left out. A query without an id is called by the number of its line,
    from 1. Raises QueryError, with the line, also for an id that two queries have, and for tables
    by their suffix.
    """
    queries: list[Query] = []
    line_of_id: dict[str, int] = {}
    try:
        for number, query in _rows(path):
            try:
                queries.append(_checked(query))
            except ValueError as error:
                raise QueryError(f"{path}, line {number}: {error}") from None

            # hits are told apart by the id of their query
            earlier = line_of_id.setdefault(queries[-1].query_id, number)
            if earlier != number:
                twice = f"the query_id {queries[-1].query_id!r} is that of line {earlier}"
                raise QueryError(f"{path}, line {number}: {twice}; give every query one of its own")
    except (OSError, ValueError) as error:
        raise QueryError(str(error)) from None

    if not queries:
        raise QueryError(f"{path}: holds no query")
    return queries


def results_table(queries: Sequence[Query], hits: Sequence[Sequence[Hit]]) -> pa.Table:
    """Return RESULTS: hits in order for each query in order."""
    rows = []
    for query, found in zip(queries, hits, strict=True):
        for rank, hit in enumerate(found, start=1):
            row = {"query_id": query.query_id, "query": query.text, "rank": rank, **hit._asdict()}
            rows.append(row)
    return pa.Table.from_pylist(rows, RESULTS)


def check_output(path: Path) -> None:
    """Raise QueryError for a file name whose suffix says no format."""
    if path.suffix not in OUTPUTS:
        raise QueryError(f"--output {path}: ends in neither {' nor '.join(OUTPUTS)}")


def is_results(path: Path) -> bool:
    """Return whether a file is a table of hits, in either format."""
    try:
        if path.suffix == ".parquet":
            return bool(pq.read_schema(path).equals(RESULTS))
        with path.open("rb") as stream:
            first = json.loads(stream.readline(MAX_ROW_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and list(first) == RESULTS.names


def write_results(path: Path, table: pa.Table, suffix: str) -> None:
    """Write Parquet or JSON lines, by the suffix."""
    if suffix == ".parquet":
        pq.write_table(table, path, compression="zstd")
        return
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in table.to_pylist():
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _rows(path: Path) -> Iterator[tuple[int, Query | Fault]]:
    """Read the queries of a file, unchecked, with the numbers of their lines."""
    suffix = path.suffix.lower()
    if suffix in TABLES:
        raise ValueError(f"{path}: queries come as text, one a line, or as .jsonl; write them so")

    if suffix == ".jsonl":
        for number, value in read_json_lines(str(path)):
            yield number, value if isinstance(value, Fault) else _from_json(value, number)
    else:
        for number, content in read_lines(str(path)):
            # a file of an old Macintosh would be one long query
            if not isinstance(content, Fault) and b"\r" in content.strip():
                content = Fault(
                    "not_a_record", "a carriage return inside the line; lines end with line feeds"
                )
            if isinstance(content, Fault):
                yield number, content
            else:
                yield number, Query(str(number), content.decode("utf-8", "surrogateescape"))


def _checked(query: Query | Fault) -> Query:
    """Return a query that can be searched with. Raises ValueError."""
    if isinstance(query, Fault):
        raise QueryError(query.detail)
    checked_text(query.text)
    if not is_unicode(query.query_id):
        raise QueryError(f"the query_id {query.query_id!r} is not Unicode text")
    return query


def _from_json(row: Any, number: int) -> Query | Fault:
    """Return the query of a line, or what is wrong with it."""
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        return Fault("not_a_record", 'is not an object with a "text"')
    if near := near_name(row, ["query_id"]):
        return Fault("not_a_record", near)

    # whole numbers are ids too, in digits
    query_id = row.get("query_id")
    if query_id is None or (isinstance(query_id, int) and not isinstance(query_id, bool)):
        query_id = str(number if query_id is None else query_id)
    if not isinstance(query_id, str) or not query_id:
        detail = f"the query_id is {str(query_id)[:100]!r}; write it as text, or leave it out"
        return Fault("not_a_record", detail)
    return Query(query_id, row["text"])
