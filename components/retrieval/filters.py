"""Which pictures satisfy a condition: SQL over one table of ids, sizes and metadata, by DuckDB.

The condition comes from the user and may say anything; but it is one condition, and once the table is loaded DuckDB
opens no other file.
"""

import glob
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from components import schema

ROW = "index_row"
READERS = {
    ".parquet": "read_parquet(?, hive_partitioning = false)",
    ".csv": f"read_csv(?, types = {{'{schema.IMAGE_ID}': 'VARCHAR'}}, hive_partitioning = false)",
}


class FilterError(ValueError):
    """A table or condition that says nothing about the pictures; the message says what would."""


def matching_rows(pictures: pa.Table, metadata: Path | None, condition: str) -> np.ndarray:
    """Sorted row numbers, int64, of `pictures` (image_id, width, height) for which an SQL condition holds.

    It may name the columns of `pictures` and those of a Parquet or CSV file that has a column image_id; they are NULL
    for pictures that the file does not mention. Raises FilterError, also when nothing matches.
    """
    with duckdb.connect() as database:
        _load(database, pictures, metadata)
        database.execute("SET enable_external_access = false; SET lock_configuration = true")
        query = f"SELECT {ROW} FROM pictures WHERE (\n{condition}\n) ORDER BY {ROW}"
        try:
            if len(database.extract_statements(query)) != 1:
                raise FilterError(f"--where {condition!r}: is not one condition")
            rows = database.execute(query).fetchnumpy()[ROW]
        except duckdb.Error as error:
            raise FilterError(f"--where {condition!r}: {_reason(error)}; {_columns(database)}") from None
        if not len(rows):
            raise FilterError(f"--where {condition!r}: matches none of {len(pictures)} pictures; {_columns(database)}")
        return np.asarray(rows, np.int64)


def _load(database: duckdb.DuckDBPyConnection, pictures: pa.Table, metadata: Path | None) -> None:
    numbered = pictures.append_column(ROW, pa.array(np.arange(len(pictures))))
    database.register("numbered", numbered)
    if metadata is None:
        database.execute("CREATE TABLE pictures AS FROM numbered")
    else:
        others = _read_metadata(database, metadata)
        names = "".join(f", metadata.{_quoted(name)}" for name in others)
        database.execute(
            f"CREATE TABLE pictures AS SELECT numbered.*{names} FROM numbered LEFT JOIN metadata USING (image_id)"
        )
        if not database.execute("FROM numbered SEMI JOIN metadata USING (image_id) LIMIT 1").fetchall():
            raise FilterError(
                f"--metadata {metadata}: mentions none of the {len(pictures)} pictures by {schema.IMAGE_ID}"
            )
    database.unregister("numbered")


def _read_metadata(database: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    """Load the file as the table `metadata`; its columns without those that every picture has. Raises FilterError."""
    if path.suffix not in READERS:
        raise FilterError(f"--metadata {path}: is neither {' nor '.join(READERS)}")
    if not path.is_file():
        raise FilterError(f"--metadata {path}: there is no such file")
    try:
        database.execute(f"CREATE TABLE metadata AS FROM {READERS[path.suffix]}", [glob.escape(str(path))])
        columns = [row[0] for row in database.execute("DESCRIBE metadata").fetchall()]
        if schema.IMAGE_ID not in columns:
            raise FilterError(f"--metadata {path}: has no column {schema.IMAGE_ID}, only {', '.join(columns)}")
        database.execute(f"ALTER TABLE metadata ALTER {schema.IMAGE_ID} TYPE VARCHAR")
    except duckdb.Error as error:
        raise FilterError(f"--metadata {path}: {_reason(error)}") from None
    twice = f"SELECT {schema.IMAGE_ID} FROM metadata GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT 1"
    if found := database.execute(twice).fetchall():
        raise FilterError(
            f"--metadata {path}: has several rows for {schema.IMAGE_ID} {found[0][0]!r}; keep one of them"
        )
    ours = {schema.IMAGE_ID, schema.WIDTH, schema.HEIGHT, ROW}
    return [name for name in columns if name.lower() not in ours]


def _columns(database: duckdb.DuckDBPyConnection) -> str:
    found = database.execute("DESCRIBE pictures").fetchall()
    return "the columns are " + ", ".join(f"{name} {kind}" for name, kind, *_ in found if name != ROW)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _reason(error: duckdb.Error) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "cannot be read")
