"""Filter of pictures: SQL over one table of ids, sizes and metadata, by DuckDB.

The condition comes from the user and may say anything; but it is one condition, and once the table
is loaded DuckDB opens no other file.
"""

import glob
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components import schema
from components.files.delimited import Row, read_table
from components.files.lines import Fault
from components.files.storage import is_unicode, printable

ROW = "index_row"
SUFFIXES = (".parquet", ".csv")
ROWS_AT_ONCE = 65_536  # of a CSV file, as Python objects
# Types of a CSV column, the first that all its texts fit.
TYPES = ("BIGINT", "DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP")
# Texts that are numbers. DuckDB accepts more: it rounds 0.5 to a whole number, and reads 0x10 and
# 1_000. Here, digits with leading zeros are no numbers, and whole numbers that a DOUBLE may not
# tell apart stay texts.
NUMBERS = {
    "BIGINT": r"^[-+]?(0|[1-9][0-9]*)$",
    "DOUBLE": r"^[-+]?((0|[1-9][0-9]{0,14})(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$",
}
NOT_ZERO = r"^[-+]?[0.]*[1-9]"  # a digit other than 0 in front of the exponent


class FilterError(ValueError):
    """A table or condition that cannot filter the pictures; the message says how to mend it."""


def matching_rows(pictures: pa.Table, metadata: Path | None, condition: str) -> np.ndarray:
    """Return the sorted row numbers, int64, of `pictures` for which an SQL condition holds.

    `pictures` has image_id, width and height. The condition may name these columns and those of a
    Parquet or CSV file that has a column image_id; they are NULL for pictures that the file does
    not mention. Raises FilterError, also when nothing matches.
    """
    if not is_unicode(condition):
        raise FilterError(f"--where {printable(condition)!r}: is not valid Unicode text")
    with duckdb.connect() as database:
        _load(database, pictures, metadata)

        # from here on DuckDB opens no file, whatever the condition says
        database.execute("SET enable_external_access = false; SET lock_configuration = true")

        # line breaks, so that a comment in the condition ends before the bracket
        query = f"SELECT {ROW} FROM pictures WHERE (\n{condition}\n) ORDER BY {ROW}"
        try:
            if len(database.extract_statements(query)) != 1:
                raise FilterError(f"--where {condition!r}: is not one condition")
            rows = database.execute(query).fetchnumpy()[ROW]
        except duckdb.Error as error:
            raise FilterError(
                f"--where {condition!r}: {_reason(error)}; {_columns(database)}"
            ) from None

        # no hits would look like a corpus without such pictures; a typing error is likelier
        if not len(rows):
            raise FilterError(
                f"--where {condition!r}: matches none of {len(pictures)} pictures; "
                f"{_columns(database)}"
            )
        return np.asarray(rows, np.int64)


def _load(database: duckdb.DuckDBPyConnection, pictures: pa.Table, metadata: Path | None) -> None:
    """Load the table `pictures`, numbered, with the columns of the file `metadata`."""
    numbered = pictures.append_column(ROW, pa.array(np.arange(len(pictures))))
    database.register("numbered", numbered)
    if metadata is None:
        database.execute("CREATE TABLE pictures AS FROM numbered")
    else:
        others = _read_metadata(database, metadata)
        names = "".join(f", metadata.{_quoted(name)}" for name in others)
        database.execute(
            f"CREATE TABLE pictures AS SELECT numbered.*{names} "
            "FROM numbered LEFT JOIN metadata USING (image_id)"
        )

        # ids of another kind, such as file names, would give NULL everywhere
        shared = "FROM numbered SEMI JOIN metadata USING (image_id) LIMIT 1"
        if not database.execute(shared).fetchall():
            raise FilterError(
                f"--metadata {metadata}: mentions none of the {len(pictures)} pictures by "
                f"{schema.IMAGE_ID}"
            )
    database.unregister("numbered")


def _read_metadata(database: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    """Load the file as the table `metadata`, and return its columns that pictures lack.

    Raises FilterError.
    """
    if path.suffix not in SUFFIXES:
        raise FilterError(f"--metadata {path}: is neither {' nor '.join(SUFFIXES)}")
    if not path.is_file():
        raise FilterError(f"--metadata {path}: there is no such file")

    try:
        _load_csv(database, path) if path.suffix == ".csv" else _load_parquet(database, path)
        columns = [row[0] for row in database.execute("DESCRIBE metadata").fetchall()]
        database.execute(f"ALTER TABLE metadata ALTER {schema.IMAGE_ID} TYPE VARCHAR")
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise FilterError(f"--metadata {path}: {_reason(error)}") from None

    # a picture with two rows would be two pictures after the join
    twice = (
        f"SELECT {schema.IMAGE_ID} FROM metadata GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT 1"
    )
    if found := database.execute(twice).fetchall():
        raise FilterError(
            f"--metadata {path}: has several rows for {schema.IMAGE_ID} {found[0][0]!r}; "
            "keep one of them"
        )

    # sizes of pictures come from the store
    ours = {schema.IMAGE_ID, schema.WIDTH, schema.HEIGHT, ROW}
    return [name for name in columns if name.lower() not in ours]


def _load_parquet(database: duckdb.DuckDBPyConnection, path: Path) -> None:
    _check_names(path, pq.read_schema(path).names)
    source = "read_parquet(?, hive_partitioning = false)"
    database.execute(f"CREATE TABLE metadata AS FROM {source}", [glob.escape(str(path))])


def _load_csv(database: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Load a CSV file by the rules of components/files/delimited.py; an empty field is NULL."""
    names: list[str] = []

    def choose(header: Sequence[str]) -> Sequence[str]:
        names.extend(filter(None, header))
        _check_names(path, names)
        return names

    try:
        rows = read_table(str(path), choose, (schema.IMAGE_ID,))
        batches = []
        while found := list(islice(rows, ROWS_AT_ONCE)):
            fields = [_fields(path, row) for row in found]
            by_column = list(map(list, zip(*fields, strict=True)))
            batches.append(pa.table(by_column, _texts(names)))
    except FilterError:
        raise
    except ValueError as error:
        raise FilterError(f"--metadata {error}") from None

    # every field is text so far: a column gets the first type that all of its texts fit
    database.register("texts", pa.concat_tables([_texts(names).empty_table(), *batches]))
    columns = [schema.IMAGE_ID]
    for name in names:
        if name != schema.IMAGE_ID:
            quoted = _quoted(name)
            columns.append(f"CAST({quoted} AS {_type_of(database, name)}) AS {quoted}")
    database.execute(f"CREATE TABLE metadata AS SELECT {', '.join(columns)} FROM texts")
    database.unregister("texts")


def _texts(names: Sequence[str]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])


def _fields(path: Path, row: Row) -> list[str | None]:
    """Return the fields of a row, None for empty ones. Raises FilterError for a damaged row."""
    if isinstance(row.values, Fault):
        raise FilterError(f"--metadata {path}: {row.values.detail}; mend the line")

    # a guess at a damaged row would filter wrongly without a word
    place = f"--metadata {path}: line {row.line}"
    for name, text in row.values.items():
        if text is None:
            raise FilterError(f"{place}: ends before the column {name}; mend the line")
    # empty fields are NULL, as in Parquet
    fields = []
    for name, text in row.values.items():
        if not is_unicode(text or ""):
            raise FilterError(f"{place}: {name} is not UTF-8; mend the line")
        fields.append(text or None)
    return fields


def _type_of(database: duckdb.DuckDBPyConnection, name: str) -> str:
    """Return the first of TYPES that every text of a column fits, else VARCHAR."""
    # one expression per type, true if it fits all texts
    column = _quoted(name)
    fits = []
    for kind in TYPES:
        fit = f"count({column}) = count(TRY_CAST({column} AS {kind}))"
        if kind in NUMBERS:
            fit += f" AND coalesce(bool_and(regexp_matches({column}, '{NUMBERS[kind]}')), true)"
        if kind == "DOUBLE":  # the cast makes 1e400 infinite, and 1e-400 zero
            number = f"TRY_CAST({column} AS DOUBLE)"
            is_lost = f"{number} = 0 AND regexp_matches({column}, '{NOT_ZERO}')"
            fit += f" AND coalesce(bool_and(isfinite({number}) AND NOT ({is_lost})), true)"
        fits.append(fit)

    # all types in one pass over the column
    found = database.execute(f"SELECT count({column}) > 0, {', '.join(fits)} FROM texts").fetchone()
    assert found is not None
    has_text, *is_fit = found
    for kind, fit in zip(TYPES, is_fit, strict=True):
        if has_text and fit:
            return kind
    return "VARCHAR"


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Raise FilterError for a table without ids, or with columns that SQL cannot tell apart."""
    if schema.IMAGE_ID not in names:
        raise FilterError(
            f"--metadata {path}: has no column {schema.IMAGE_ID}, only {', '.join(names)}"
        )
    counts = Counter(map(str.lower, names))
    for name in names:
        if counts[name.lower()] > 1:
            raise FilterError(f"--metadata {path}: has several columns {name}; rename all but one")


def _columns(database: duckdb.DuckDBPyConnection) -> str:
    """List the columns that a condition can name, for the message of an error."""
    columns = []
    for name, kind, *_ in database.execute("DESCRIBE pictures").fetchall():
        if name != ROW:
            columns.append(f"{name} {kind}")
    return "the columns are " + ", ".join(columns)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _reason(error: Exception) -> str:
    """Return the first line of a message that says something."""
    return next(filter(str.strip, str(error).splitlines()), "cannot be read")
