"""Tables of pictures: Parquet with the columns image_id and image (bytes)."""

from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components import schema
from components.compression.corpus import ENTRIES, ROW, Corpus, Picture, build_corpus
from components.files.parquet import PLAIN, TABLE_ERRORS, check_names, open_parquet, read_batches
from components.files.storage import is_storage_fault, message, name_of, state_of
from components.store.rejects import Reject, UnreadablePictureError

BAD_ID = f"the id is null, empty, no UTF-8 or longer than {schema.MAX_ID_BYTES} bytes"


def list_parquet(root: str, places: Sequence[str]) -> Corpus:
    """List the rows of Parquet files; ids become text. Raises ValueError for other columns."""
    entries, rejects = [ENTRIES.empty_table()], []

    for place in places:
        ids, name = _read_ids(place), name_of(place)
        files, rows = [name] * len(ids), list(range(len(ids)))
        table = pa.Table.from_arrays([ids, files, rows], schema=ENTRIES)

        # A row without a usable id is named by its number in the file.
        is_bad = pc.fill_null(pc.equal(ids, ""), True)
        for row in table.filter(is_bad)[ROW].to_pylist():
            rejects.append(Reject(f"{name}#{row}", "bad_id", BAD_ID))
        entries.append(table.filter(pc.invert(is_bad)))

    states = [state_of(place) for place in places]
    return build_corpus("parquet", root, pa.concat_tables(entries), rejects, {}, states)


def read_parquet(place: str, wanted: dict[int, str], max_bytes: int) -> Iterator[Picture]:
    """Read the rows of one file whose numbers are in `wanted`, from the row groups that hold them.

    A damaged row group gives the rows before the damage. Raises OSError when the disk or the
    network fails.
    """
    with open_parquet(place) as table:
        start = 0
        for group in range(table.metadata.num_row_groups):
            stop = start + table.metadata.row_group(group).num_rows

            if any(start <= row < stop for row in wanted):
                yield from _read_row_group(place, table, group, start, wanted, max_bytes)
            start = stop


def _read_ids(place: str) -> pa.ChunkedArray:
    """Read the ids of a file, null where one is no UTF-8 or too long."""
    try:
        with open_parquet(place) as table:
            found = table.schema_arrow
            check_names(place, found.names, [schema.IMAGE_ID, schema.IMAGE])
            _check_columns(place, found)

            chunks = []
            for group in range(table.metadata.num_row_groups):
                for batch in read_batches(place, table, group, [schema.IMAGE_ID]):
                    chunks.append(_ids_of(batch[schema.IMAGE_ID]))
    except TABLE_ERRORS as error:
        raise ValueError(
            f"{place}: cannot be read as Parquet: {error}; fetch or write the file again"
        ) from None
    return pa.chunked_array(chunks, pa.string())


def _check_columns(place: str, found: pa.Schema) -> None:
    """Raise ValueError for a column that is missing or of a type that would be a guess."""
    columns = (schema.IMAGE_ID, schema.IMAGE)
    missing = [name for name in columns if name not in found.names]
    if missing:
        raise ValueError(
            f"{place}: has no column {' and '.join(missing)}; its columns: {found.names}"
        )

    # How ids that are neither text nor whole numbers would be written is a guess.
    kind = found.field(schema.IMAGE_ID).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = kind in (*PLAIN, *PLAIN.values())
    if not (is_text or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise ValueError(
            f"{place}: column {schema.IMAGE_ID} has type {kind}; write the ids as text or whole "
            "numbers"
        )

    # Paths to pictures, for example, are text: a list may hold them, a table may not.
    kind = found.field(schema.IMAGE).type
    if _bytes_of(kind) is None:
        raise ValueError(
            f"{place}: column {schema.IMAGE} has type {kind} instead of binary or "
            "struct<bytes: binary>"
        )


def _ids_of(column: pa.Array) -> pa.Array:
    """Turn ids into text, null where one is no UTF-8 or too long."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.type not in (*PLAIN, *PLAIN.values()):
        return column.cast(pa.string())

    # As bytes, ids have a length, and one bad id does not fail the others.
    ids = column.cast(pa.large_binary())
    ids = pc.if_else(pc.greater(pc.binary_length(ids), schema.MAX_ID_BYTES), None, ids)
    try:
        return ids.cast(pa.string())
    except pa.ArrowInvalid:  # one of them is no UTF-8
        return pa.array([_text_or_none(value) for value in ids.to_pylist()], pa.string())


def _text_or_none(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _bytes_of(kind: pa.DataType) -> Sequence[str] | None:
    """Find the path of fields to the bytes in a column of this type; None if it has no bytes.

    The bytes are the column itself, or the field `bytes` that Hugging Face datasets write.
    """
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return []
    if pa.types.is_struct(kind) and (at := kind.get_field_index("bytes")) >= 0:
        inner = kind.field(at).type  # null where no row has bytes
        return ["bytes"] if pa.types.is_null(inner) or _bytes_of(inner) == [] else None
    return None


def _read_row_group(
    place: str,
    table: pq.ParquetFile,
    group: int,
    start: int,
    wanted: dict[int, str],
    max_bytes: int,
) -> Iterator[Picture]:
    """Read the pictures of a row group, whose first row has the number `start`."""
    row, stop = start, start + table.metadata.row_group(group).num_rows
    try:
        for batch in read_batches(place, table, group, [schema.IMAGE]):
            column = batch[schema.IMAGE]
            for field in _bytes_of(column.type) or []:
                column = pc.struct_field(column, field)

            for value in column:
                if row in wanted:
                    yield Picture(wanted[row], partial(_load, value, max_bytes))
                row += 1
        return
    except TABLE_ERRORS as error:
        if is_storage_fault(error):
            raise
        detail = f"{name_of(place)}#{group}: {message(error)}"

    # The rows behind the damage become rejects when they are loaded.
    for number in range(row, stop):
        if number in wanted:
            yield Picture(wanted[number], partial(_refuse, detail))


def _refuse(detail: str) -> bytes:
    raise UnreadablePictureError("unreadable_shard", detail)


def _load(value: pa.Scalar, max_bytes: int) -> bytes:
    if not value.is_valid:
        raise UnreadablePictureError("image_missing", "the column image is null")
    size = len(value.as_buffer())
    if size > max_bytes:
        raise UnreadablePictureError("too_many_bytes", f"{size} bytes, more than {max_bytes}")
    return value.as_py()
