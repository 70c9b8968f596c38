"""Lists of places where pictures are: CSV, TSV and JSON lines with a column `image`, a path below the folder of the
list, an absolute path or a URI, and, if there is one, `image_id`; without it the place is the id.

Every line of a list becomes a picture or a reject with the number of the line. Ids and places are
the text that stands there, numbers of JSON in decimal digits; other columns are not looked at.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from components import schema
from components.compression.corpus import ENTRIES, ROW, Corpus, build_corpus
from components.files.delimited import DELIMITERS, near_name, read_table
from components.files.lines import Fault
from components.files.storage import is_unicode, name_of, printable, state_of
from components.files.strict_json import read_json_lines
from components.store.rejects import CorpusReason, Reject

ROWS_AT_ONCE = 65_536  # as Python objects; all of them are columns of text
# of a Fault; else bad_record
REASONS: dict[str, CorpusReason] = {"not_json": "bad_json", "not_utf8": "bad_encoding"}
COLUMNS = (schema.IMAGE_ID, schema.IMAGE)
LISTED = pa.schema([(schema.IMAGE_ID, pa.string()), (schema.IMAGE, pa.string()), (ROW, pa.int64())])


class ListRow(NamedTuple):
    """A line of a list: the text of its columns, None where there is none, or why it is no row."""

    line: int
    values: Mapping[str, str | None] | Reject


def list_pictures(root: str, places: Sequence[str]) -> Corpus:
    """List the rows of lists of places. Raises ValueError for a file that is no such list."""
    entries, rejects = [ENTRIES.empty_table()], []
    for place in places:
        listed, faults = _read_list(place)
        entries.append(listed)
        rejects += faults
    states = [state_of(place) for place in places]
    return build_corpus("list", root, pa.concat_tables(entries), rejects, {}, states)


def _read_list(place: str) -> tuple[pa.Table, list[Reject]]:
    """The pictures of one list as ENTRIES, `row` being the line, and the other rows."""
    is_table = PurePosixPath(place).suffix.lower() in DELIMITERS
    columns = _Columns(place)
    for row in _table_rows(place, columns) if is_table else _json_rows(place, columns):
        columns.add(row)
    return columns.entries()


class _Columns:
    """The columns of a list as they grow, and the rows that are none."""

    def __init__(self, place: str) -> None:
        self.place, self.name = place, printable(name_of(place))
        # columns of the list: of JSON, the keys of its first object and COLUMNS
        self.present: dict[str, None] = {}
        self.rejects: list[Reject] = []
        self.batches: list[pa.RecordBatch] = []
        self.waiting: list[tuple[str | None, str | None, int]] = []

    def note(self, names: Iterable[str]) -> None:
        """Take the names of the columns, or of the keys of one object."""
        self.present.update(
            dict.fromkeys(name for name in names if not self.present or name in COLUMNS)
        )

    def add(self, row: ListRow) -> None:
        """Take a row."""
        if isinstance(row.values, Reject):
            self.rejects.append(row.values)
            return
        self.waiting.append(
            (row.values.get(schema.IMAGE_ID), row.values.get(schema.IMAGE), row.line)
        )
        if len(self.waiting) == ROWS_AT_ONCE:
            self._flush()

    def reject(
        self, line: int, reason: CorpusReason, detail: str, image_id: str | None = None
    ) -> ListRow:
        """A row that is no picture."""
        place = f"{self.name}:{line}"
        return ListRow(
            line,
            Reject(
                place if image_id is None else image_id, reason, printable(f"{place}: {detail}")
            ),
        )

    def entries(self) -> tuple[pa.Table, list[Reject]]:
        """All pictures, and all rejects. Raises ValueError when the list has no column of places."""
        self._flush()
        if schema.IMAGE not in self.present:
            what = f"has no column {schema.IMAGE}; its columns: {list(self.present)}"
            reasons = "".join(f"; {reject.detail}" for reject in self.rejects[:1])
            raise ValueError(f"{self.place}: {what}{reasons}")
        table = pa.Table.from_batches(self.batches, LISTED)
        places = table[schema.IMAGE]
        ids = table[schema.IMAGE_ID] if schema.IMAGE_ID in self.present else places
        has_id, has_place = (
            pc.fill_null(pc.not_equal(column, ""), False) for column in (ids, places)
        )
        if schema.IMAGE_ID in self.present:
            for line in table[ROW].filter(pc.invert(has_id)).to_pylist():
                self.add(self.reject(line, "bad_id", "the id is null or empty"))
            is_lost = pc.and_(has_id, pc.invert(has_place))
        else:
            is_lost = pc.invert(has_place)
        lost = table.filter(is_lost)
        for image_id, line in zip(
            lost[schema.IMAGE_ID].to_pylist(), lost[ROW].to_pylist(), strict=True
        ):
            self.add(
                self.reject(
                    line, "image_missing", f"the column {schema.IMAGE} is null or empty", image_id
                )
            )
        listed = pa.Table.from_arrays([ids, places, table[ROW]], schema=ENTRIES)
        return listed.filter(pc.and_(has_id, has_place)), self.rejects

    def _flush(self) -> None:
        columns = list(zip(*self.waiting, strict=True)) or [(), (), ()]
        arrays = [
            pa.array(column, field.type) for column, field in zip(columns, LISTED, strict=True)
        ]
        self.batches.append(pa.RecordBatch.from_arrays(arrays, schema=LISTED))
        self.waiting = []


def _table_rows(place: str, columns: _Columns) -> Iterator[ListRow]:
    def choose(header: Sequence[str]) -> Sequence[str]:
        if near := near_name(header, COLUMNS):
            raise ValueError(f"{place}: {near}")
        columns.note(header)
        return [name for name in COLUMNS if name in header]

    for line, values in read_table(place, choose, COLUMNS):
        if isinstance(values, Fault):
            yield _fault(columns, line, values)
        else:
            yield _checked(columns, line, values)


def _json_rows(place: str, columns: _Columns) -> Iterator[ListRow]:
    for line, value in read_json_lines(place):
        if isinstance(value, Fault):
            yield _fault(columns, line, value)
        elif not isinstance(value, dict):
            yield columns.reject(
                line, "bad_record", f"{type(value).__name__} where an object belongs"
            )
        elif near := near_name(value, COLUMNS):
            yield columns.reject(line, "bad_record", near)
        else:
            columns.note(value)
            yield _checked(columns, line, value)


def _fault(columns: _Columns, line: int, fault: Fault) -> ListRow:
    return columns.reject(line, REASONS.get(fault.kind, "bad_record"), fault.detail)


def _checked(columns: _Columns, line: int, values: Mapping[str, Any]) -> ListRow:
    """The row with its id and place as text, nothing else of it."""
    image_id, image = values.get(schema.IMAGE_ID), values.get(schema.IMAGE)
    if isinstance(image_id, int) and not isinstance(image_id, bool):
        image_id = str(image_id)
    if not isinstance(image_id, str | None):
        return columns.reject(line, "bad_id", f"the id is {str(image_id)[:100]}; write it as text")
    if not is_unicode(image_id or ""):
        return columns.reject(line, "bad_id", f"the id {image_id!r} is not Unicode text")
    if not isinstance(image, str | None):
        what = f"{schema.IMAGE} is {str(image)[:100]}; write the place as text"
        return columns.reject(line, "bad_record", what, image_id or None)
    if not is_unicode(image or ""):
        return columns.reject(
            line, "bad_encoding", f"the place {image!r} is not Unicode text", image_id or None
        )
    return ListRow(line, {schema.IMAGE_ID: image_id, schema.IMAGE: image})
