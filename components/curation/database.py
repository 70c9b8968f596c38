"""Databases on the disk, by DuckDB: tables larger than memory, rows of a query one by one."""

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb
from duckdb import DuckDBPyConnection

ROWS_AT_ONCE = 50_000  # fetched or written by Python


def open_database(path: Path, memory_limit: str, num_threads: int) -> DuckDBPyConnection:
    """Open a new database with `memory_limit` ("2GB"); what does not fit lies beside `path`."""
    path.unlink(missing_ok=True)
    database = duckdb.connect(path)

    settings = {
        "memory_limit": memory_limit,
        "threads": num_threads,
        # queries say what order they want; keeping one costs memory
        "preserve_insertion_order": False,
        "enable_progress_bar": False,
        "autoinstall_known_extensions": False,
    }
    for name, value in settings.items():
        database.execute(f"SET {name} = '{value}'")
    return database


def literal_paths(paths: Iterable[Path]) -> list[str]:
    """Return file names for `read_parquet`, which takes `[1]` in a folder's name for a pattern.

    It would also take a folder `source=x` for a column, unless it is told `hive_partitioning =
    false`.
    """
    return [glob.escape(str(path)) for path in paths]


def stream_rows(
    database: DuckDBPyConnection, query: str, **params: object
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query, while the database goes on with other things."""
    with database.cursor() as cursor:
        cursor.execute(query, params)
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            yield from rows
