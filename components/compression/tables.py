"""Tables of pictures: Parquet with the columns image_id and image (bytes)."""

from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components import schema
from components.compression.corpus import ENTRIES, Corpus, Picture, build_corpus
from components.compression.rejects import Reject, UnreadablePictureError
from components.files.storage import name_of, open_file, state_of

READ_ROWS = 64  # pictures of a Parquet corpus that are in memory at once
MISSING = "the column image is null or empty"


def list_parquet(root: str, places: Sequence[str]) -> Corpus:
    """List the rows of Parquet files; ids become text. Raises ValueError for other columns."""
    return _list_tables(root, places, [_read_ids(place) for place in places])


def read_parquet(place: str, wanted: dict[int, str], max_bytes: int) -> Iterator[Picture]:
    """The rows of one file whose numbers are in `wanted`, from the row groups that hold them."""
    with open_file(place) as file, pq.ParquetFile(file) as table:
        start = 0
        for group in range(table.metadata.num_row_groups):
            stop = start + table.metadata.row_group(group).num_rows
            if any(start <= row < stop for row in wanted):
                yield from _read_row_group(table, group, start, wanted, max_bytes)
            start = stop


def _list_tables(root: str, places: Sequence[str], tables: Sequence[pa.Table]) -> Corpus:
    """`tables`: of each file the columns image_id, and where the bytes are: the file itself, or what a row names."""
    rejects: list[Reject] = []
    entries = [ENTRIES.empty_table()]
    for place, table in zip(places, tables, strict=True):
        ids, files = table.columns
        rows = pa.array(range(len(ids)), pa.int64())
        bad = pc.fill_null(pc.equal(ids, ""), True)
        numbers = rows.filter(bad).to_pylist()
        rejects += [Reject(f"{name_of(place)}#{row}", "bad_id", "the id is null or empty") for row in numbers]
        missing = pc.and_not(pc.fill_null(pc.equal(files, ""), True), bad)
        rejects += [Reject(image_id, "image_missing", MISSING) for image_id in ids.filter(missing).to_pylist()]
        listed = pa.Table.from_arrays([ids, files, rows], schema=ENTRIES)
        entries.append(listed.filter(pc.invert(pc.or_(bad, missing))))
    states = [state_of(place) for place in places]
    return build_corpus("parquet", root, pa.concat_tables(entries), rejects, {}, states)


def _read_ids(place: str) -> pa.Table:
    try:
        with open_file(place) as file, pq.ParquetFile(file) as table:
            found = table.schema_arrow
            _expect(place, found.names, schema.IMAGE_ID, schema.IMAGE)
            kind = found.field(schema.IMAGE).type
            if _bytes_of(kind) is None:
                raise ValueError(
                    f"{place}: column {schema.IMAGE} has type {kind} instead of binary or struct<bytes: binary>"
                )
            ids = table.read(columns=[schema.IMAGE_ID])[schema.IMAGE_ID].cast(pa.string())
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{place}: cannot be read as Parquet: {error}") from None
    return pa.table({schema.IMAGE_ID: ids, schema.IMAGE: pa.array([name_of(place)] * len(ids), pa.string())})


def _expect(place: str, found: Sequence[str], *wanted: str) -> None:
    if twice := [name for name in wanted if list(found).count(name) > 1]:
        raise ValueError(f"{place}: the column {twice[0]} is there several times; rename all but one")
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(f"{place}: has no column {' and '.join(missing)}; its columns: {list(found)}")


def _bytes_of(kind: pa.DataType) -> Sequence[str] | None:
    """Where the bytes are in a column of this type: itself, or the field `bytes` that Hugging Face datasets write."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return []
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return ["bytes"]
    return None


def _read_row_group(
    table: pq.ParquetFile, group: int, start: int, wanted: dict[int, str], max_bytes: int
) -> Iterator[Picture]:
    for batch in table.iter_batches(READ_ROWS, row_groups=[group], columns=[schema.IMAGE]):
        column = batch[schema.IMAGE]
        for field in _bytes_of(column.type) or []:
            column = pc.struct_field(column, field)
        for offset in range(len(column)):
            if start + offset in wanted:
                yield Picture(wanted[start + offset], partial(_load, column[offset], max_bytes))
        start += len(column)


def _load(value: pa.Scalar, max_bytes: int) -> bytes:
    if not value.is_valid:
        raise UnreadablePictureError("image_missing", "the column image is null")
    size = len(value.as_buffer())
    if size > max_bytes:
        raise UnreadablePictureError("too_many_bytes", f"{size} bytes, more than {max_bytes}")
    return value.as_py()
