"""Lists of places where pictures are: CSV, TSV and JSON lines.

The column `image` holds a path below the folder of the list, an absolute path or a URI; the column
`image_id` may be absent, then the place is the id. Every line of a list becomes a picture or a
reject with the number of the line. Ids and places are the text that stands there, numbers of JSON
in decimal digits; other columns are not looked at.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from components import schema
from components.compression.corpus import ENTRIES, ROW, ROWS_AT_ONCE, Corpus, build_corpus
from components.files.delimited import DELIMITERS, near_name, read_table
from components.files.lines import Fault
from components.files.storage import is_unicode, name_of, printable, state_of
from components.files.strict_json import read_json_lines
from components.store.rejects import CorpusReason, Reject

# reasons for the kinds of Fault; bad_record for all others
REASONS: dict[str, CorpusReason] = {"not_json": "bad_json", "not_utf8": "bad_encoding"}
COLUMNS = (schema.IMAGE_ID, schema.IMAGE)
LISTED = pa.schema([(schema.IMAGE_ID, pa.string()), (schema.IMAGE, pa.string()), (ROW, pa.int64())])


def list_pictures(root: str, places: Sequence[str]) -> Corpus:
    """List the rows of lists of places. Raises ValueError for a file that is no such list."""
    entries, rejects = [ENTRIES.empty_table()], []

    for place in places:
        lines = _Lines(place)
        if PurePosixPath(place).suffix.lower() in DELIMITERS:
            _read_table(place, lines)
        else:
            _read_json(place, lines)
        entries.append(lines.entries())
        rejects += lines.rejects

    states = [state_of(place) for place in places]
    return build_corpus("list", root, pa.concat_tables(entries), rejects, {}, states)


class _Lines:
    """The lines of one list as they are read: pictures in columns of text, and rejects."""

    def __init__(self, place: str) -> None:
        self.place, self.name = place, printable(name_of(place))
        # columns of the list: of JSON, the keys of its first object and COLUMNS
        self.present: dict[str, None] = {}
        self.rejects: list[Reject] = []
        self.batches: list[pa.RecordBatch] = []
        self.waiting: list[tuple[str | None, str | None, int]] = []

    def note_columns(self, names: Iterable[str]) -> None:
        """Take the names of the columns, or of the keys of one object."""
        is_first = not self.present
        for name in names:
            if is_first or name in COLUMNS:
                self.present[name] = None

    def add(self, line: int, values: Mapping[str, Any] | Fault) -> None:
        """Take a line as a picture, with its id and place as text, or as a reject."""
        if isinstance(values, Fault):
            self.reject(line, REASONS.get(values.kind, "bad_record"), values.detail)
            return

        # Numbers are a common id in JSON; bool counts as int in Python only.
        image_id, image = values.get(schema.IMAGE_ID), values.get(schema.IMAGE)
        if isinstance(image_id, int) and not isinstance(image_id, bool):
            image_id = str(image_id)

        # What other values mean as text would be a guess.
        if not isinstance(image_id, str | None):
            self.reject(line, "bad_id", f"the id is {str(image_id)[:100]}; write it as text")
        elif not is_unicode(image_id or ""):
            self.reject(line, "bad_id", f"the id {image_id!r} is not Unicode text")
        elif not isinstance(image, str | None):
            detail = f"{schema.IMAGE} is {str(image)[:100]}; write the place as text"
            self.reject(line, "bad_record", detail, image_id or None)
        elif not is_unicode(image or ""):
            detail = f"the place {image!r} is not Unicode text"
            self.reject(line, "bad_encoding", detail, image_id or None)
        else:
            self.waiting.append((image_id, image, line))
            if len(self.waiting) == ROWS_AT_ONCE:
                self._flush()

    def reject(
        self, line: int, reason: CorpusReason, detail: str, image_id: str | None = None
    ) -> None:
        """Take a line that is no picture; without an id it is named by its place in the list."""
        place = f"{self.name}:{line}"
        name = place if image_id is None else image_id
        self.rejects.append(Reject(name, reason, printable(f"{place}: {detail}")))

    def entries(self) -> pa.Table:
        """Return all pictures as ENTRIES, `row` being the line.

        Raises ValueError when the list has no column of places.
        """
        self._flush()
        if schema.IMAGE not in self.present:
            what = f"has no column {schema.IMAGE}; its columns: {list(self.present)}"
            reason = f"; {self.rejects[0].detail}" if self.rejects else ""
            raise ValueError(f"{self.place}: {what}{reason}")

        # Without a column of ids the place is the id.
        table = pa.Table.from_batches(self.batches, LISTED)
        has_ids = schema.IMAGE_ID in self.present
        places = table[schema.IMAGE]
        ids = table[schema.IMAGE_ID] if has_ids else places
        has_id, has_place = _is_filled(ids), _is_filled(places)

        # A line without an id is one reject, whether it has a place or not.
        is_lost = pc.invert(has_place)
        if has_ids:
            is_lost = pc.and_(has_id, is_lost)
            for line in table[ROW].filter(pc.invert(has_id)).to_pylist():
                self.reject(line, "bad_id", "the id is null or empty")
        detail = f"the column {schema.IMAGE} is null or empty"
        for entry in table.filter(is_lost).to_pylist():
            self.reject(entry[ROW], "image_missing", detail, entry[schema.IMAGE_ID])

        listed = pa.Table.from_arrays([ids, places, table[ROW]], schema=ENTRIES)
        return listed.filter(pc.and_(has_id, has_place))

    def _flush(self) -> None:
        """Turn the lines that wait, as Python objects, into Arrow's columns."""
        columns = list(zip(*self.waiting, strict=True)) or [(), (), ()]
        arrays = list(map(pa.array, columns, LISTED.types))
        self.batches.append(pa.RecordBatch.from_arrays(arrays, schema=LISTED))
        self.waiting = []


def _read_table(place: str, lines: _Lines) -> None:
    def choose(header: Sequence[str]) -> Sequence[str]:
        if near := near_name(header, COLUMNS):
            raise ValueError(f"{place}: {near}")
        lines.note_columns(header)
        return [name for name in COLUMNS if name in header]

    for line, values in read_table(place, choose, COLUMNS):
        lines.add(line, values)


def _read_json(place: str, lines: _Lines) -> None:
    for line, value in read_json_lines(place):
        if isinstance(value, Fault):
            lines.add(line, value)
        elif not isinstance(value, dict):
            detail = f"{type(value).__name__} where an object belongs"
            lines.reject(line, "bad_record", detail)
        elif near := near_name(value, COLUMNS):
            lines.reject(line, "bad_record", near)
        else:
            lines.note_columns(value)
            lines.add(line, value)


def _is_filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Mark the values that are neither null nor empty."""
    return pc.fill_null(pc.not_equal(column, ""), False)
