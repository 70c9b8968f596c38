"""Delimited text: tables with commas (.csv) or tabs (.tsv) between their fields.

Nothing is inferred: a field is the text that stands there. In a .tsv every tab ends a field, and
quotes are ordinary characters. In a .csv a field that begins with a quote ends at the next single
quote; a doubled quote is one, and line breaks may stand inside. A record of several lines counts
only if it has as many fields as the header and all its quotes are in order, and if it does not go
on for more than MAX_RECORD_CHARACTERS; otherwise the line where it begins is the fault, and reading
goes on with the line after it.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from components.files.lines import Fault, Line, read_lines

# of a record that goes over several lines; a quote left open is noticed after so many
MAX_RECORD_CHARACTERS = 1 << 20
DELIMITERS = {".csv": ",", ".tsv": "\t"}
BLANKS = " \t\r\n\xa0\ufeff"  # around a name that was written by hand or by a spreadsheet


class Row(NamedTuple):
    """A record of a table: its text by column, None where the record is too short."""

    line: int  # where it begins
    values: dict[str, str | None] | Fault


def read_table(
    place: str, choose: Callable[[Sequence[str]], Sequence[str]], single_line: Collection[str] = ()
) -> Iterator[Row]:
    """Yield the records behind the header; bytes that are not UTF-8 become lone surrogates.

    `choose`: returns the wanted columns of a header; it may raise ValueError. `single_line`:
    columns of which no field has line breaks: there they come from a quote that was left open.
    Blank lines are no records. Raises ValueError also for a header that cannot be read or has a
    wanted name twice, and as `read_lines`.
    """
    records = Records(place, DELIMITERS[place[place.rindex(".") :].lower()])
    header = records.header()

    # Nobody can tell which of two columns of one name is meant.
    wanted = list(choose(header))
    for name in wanted:
        if (times := header.count(name)) > 1:
            raise ValueError(f"{place}: the column {name!r} is there {times} times; rename one")

    columns = [(name, header.index(name)) for name in wanted]
    one_line = [index for name, index in columns if name in single_line]
    for line, fields in records.rows(len(header), one_line):
        if isinstance(fields, Fault):
            yield Row(line, fields)
        elif len(fields) > len(header):
            what = f"line {line}: {len(fields)} fields, more than the {len(header)} of the header"
            yield Row(line, Fault("not_a_record", what))
        else:
            # Columns that are missing at the end of a record have no text.
            padded = [*fields, *[None] * (len(header) - len(fields))]
            yield Row(line, {name: padded[index] for name, index in columns})


def near_name(present: Collection[str], wanted: Iterable[str]) -> str | None:
    """Return a hint at a name that differs from a wanted one by case and outer blanks alone.

    A column that may be left out would be left out without a word.
    """
    for name in wanted:
        if name in present:
            continue
        for other in present:
            if other.strip(BLANKS).casefold() == name.casefold():
                return f"has {other!r} and no {name!r}; write {name!r}"
    return None


class Records:
    """The records of a file.

    The lines behind the first of a record that turns out to be none are read again.
    """

    def __init__(self, place: str, delimiter: str) -> None:
        self.place, self.delimiter = place, delimiter
        self.has_quotes = delimiter == DELIMITERS[".csv"]
        self.lines = read_lines(place)
        self.again: deque[Line] = deque()

    def header(self) -> list[str]:
        """Return the fields of the first line that is not blank. Raises ValueError."""
        line = next((line for line in self._following() if line.content), None)
        if line is None:
            return []

        try:
            text = _decoded(line)
            # The whole file would be one line.
            if "\r" in text:
                what = "lines end with a carriage return alone; write line feeds"
                raise Fault("not_a_record", what)
            return self._fields(line.number, text, None, ())
        except Fault as fault:
            raise ValueError(f"{self.place}: the header cannot be read: {fault.detail}") from None

    def rows(
        self, num_columns: int, one_line: Collection[int]
    ) -> Iterator[tuple[int, list[str] | Fault]]:
        """Yield the line and the fields of each record. `one_line`: fields without line breaks."""
        for line in self._following():
            if not line.content:
                continue
            try:
                yield line.number, self._fields(line.number, _decoded(line), num_columns, one_line)
            except Fault as fault:
                yield line.number, fault

    def _following(self) -> Iterator[Line]:
        while True:
            line = self.again.popleft() if self.again else next(self.lines, None)
            if line is None:
                return
            yield line

    def _fields(
        self, number: int, text: str, num_columns: int | None, one_line: Collection[int]
    ) -> list[str]:
        """Return the fields of the record that begins with `text`, line `number`. Raises Fault."""
        if not self.has_quotes or '"' not in text:
            return text.split(self.delimiter)

        # A quote may hold line breaks: the record goes on until its last quote is closed.
        record, size = QuotedRecord(number, self.delimiter), len(text)
        taken: list[Line] = []  # behind the first
        try:
            while not record.feed(text):
                # A quote that is never closed would take the rest of the file along.
                line = next(self._following(), None)
                if line is None or num_columns is None or size > MAX_RECORD_CHARACTERS:
                    self.again.extendleft([line] if line else [])
                    what = f"line {number}: a quote is opened and never closed"
                    raise Fault("not_a_record", what)
                taken.append(line)
                text = _decoded(line)
                size += len(text)
            if taken:
                record.check_lines(num_columns, one_line)
            return record.fields
        except Fault:
            # Only the first line is at fault: those behind it are records of their own.
            self.again.extendleft(reversed(taken))
            raise


class QuotedRecord:
    """The fields of one record of a .csv, read line by line."""

    def __init__(self, line: int, delimiter: str) -> None:
        self.line, self.delimiter = line, delimiter
        self.fields: list[str] = []
        self.quoted: list[str] | None = None  # what has been read of the field whose quote is open
        self.has_stray_quotes = False

    def feed(self, text: str) -> bool:
        """Read a line; return whether the record ends with it. Raises Fault."""
        if self.quoted is not None:
            self.quoted.append("\n")

        at = 0
        while True:
            # one field per turn, and the delimiter behind it
            if self.quoted is None and text.startswith('"', at):
                self.quoted, at = [], at + 1
            at = self._plain(text, at) if self.quoted is None else self._inside(text, at)
            if at > len(text):
                return self.quoted is None

            if not text.startswith(self.delimiter, at) and self.quoted is None:
                what = f"field {len(self.fields)} goes on behind its closing quote"
                raise Fault("not_a_record", f"line {self.line}: {what}")
            at += self.quoted is None

    def check_lines(self, num_columns: int | None, one_line: Collection[int]) -> None:
        """Raise Fault if a record of several lines shows that a quote was left open."""
        is_broken = False
        for at in one_line:
            is_broken |= at < len(self.fields) and "\n" in self.fields[at]
        if self.has_stray_quotes or len(self.fields) != num_columns or is_broken:
            what = f"line {self.line}: a quote is opened and not closed in this record"
            raise Fault("not_a_record", what)

    def _plain(self, text: str, at: int) -> int:
        """Take a field without quotes; return where it ends, behind the line if it is the last."""
        end = text.find(self.delimiter, at)
        field = text[at:] if end < 0 else text[at:end]
        self.fields.append(field)
        self.has_stray_quotes |= '"' in field
        return len(text) + 1 if end < 0 else end

    def _inside(self, text: str, at: int) -> int:
        """Go on with the field whose quote is open.

        Return where its quote closes, behind the line if it does not.
        """
        assert self.quoted is not None

        # A doubled quote is one, and closes nothing.
        while (end := text.find('"', at)) >= 0 and text.startswith('""', end):
            self.quoted.append(text[at : end + 1])
            at = end + 2

        if end < 0:
            self.quoted.append(text[at:])
            return len(text) + 1
        self.fields.append("".join([*self.quoted, text[at:end]]))
        self.quoted = None
        return len(text) + 1 if end + 1 == len(text) else end + 1


def _decoded(line: Line) -> str:
    """Return a line as text. Raises Fault."""
    if isinstance(line.content, Fault):
        raise line.content
    return line.content.decode("utf-8", "surrogateescape")
