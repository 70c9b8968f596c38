"""The one reader of text that others wrote: lines, JSON, and tables with commas or tabs between their fields.

Only a line feed ends a line, and a carriage return before it goes with it: no other character of a
text splits it. A line that cannot be read is a `Fault` in its place, so that lines in = rows +
faults; only a file that is no such text at all (packed, UTF-16, without the columns) raises
ValueError. Nothing is inferred: a field is the text that stands there.

In a .tsv every tab ends a field, and quotes are ordinary characters. In a .csv a field that begins
with a quote ends at the next single quote; a doubled quote is one, and line breaks may stand
inside. A record of several lines counts only if it has as many fields as the header and all its
quotes are in order, and if it does not go on for more than MAX_RECORD_CHARACTERS; otherwise the
line where it begins is the fault, and reading goes on with the line after it.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import IO, Any, Literal, NamedTuple

from components.files.storage import open_file

MAX_LINE_BYTES = 1 << 26  # no row of a data set has 64 MB
# of a record that goes over several lines; a quote left open is noticed after so many
MAX_RECORD_CHARACTERS = 1 << 20
MAX_DEPTH = 100  # of objects and lists in each other; the same on every machine, whatever its stack
DELIMITERS = {".csv": ",", ".tsv": "\t"}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLANKS = " \t\r\n\xa0\ufeff"  # around a name that was written by hand or by a spreadsheet
# What a file is whose first bytes are these, and no text.
OTHER_FILES = (
    (re.compile(rb"\x1f\x8b"), "packed with gzip; unpack it first"),
    (re.compile(rb"BZh\d1AY&SY"), "packed with bzip2; unpack it first"),
    (re.compile(rb"\xfd7zXZ"), "packed with xz; unpack it first"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "packed with zstd; unpack it first"),
    (re.compile(rb"PK\x03\x04"), "a zip file or a workbook; export it as text"),
    (re.compile(rb"\xff\xfe|\xfe\xff"), "UTF-16; write it as UTF-8"),
    (
        re.compile(rb"(?:[^\0]\0){3}|(?:\0[^\0]){3}"),
        "UTF-16 without a byte order mark; write it as UTF-8",
    ),
)
# A string, or a bracket outside of one. A string that is cut matches too: no text is gone through
# twice.
TOKENS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)

FaultKind = Literal["not_utf8", "not_json", "not_a_record", "too_long"]


class Fault(ValueError):
    """Why one line is no row; `detail` is for people."""

    def __init__(self, kind: FaultKind, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail


class Line(NamedTuple):
    """A line, blank ones included."""

    number: int  # in the file, from 1
    content: bytes | Fault  # without its end


class Row(NamedTuple):
    """A record of a table: its text by column, None where the record is too short."""

    line: int  # where it begins
    values: dict[str, str | None] | Fault


def read_lines(place: str) -> Iterator[Line]:
    """The lines of a file, in bounded memory. Raises ValueError for a file that is no text of ours, and OSError."""
    with open_file(place) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                refuse_other_files(place, line)
                line = line.removeprefix(BYTE_ORDER_MARK)
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                _skip_line(file)
                yield Line(
                    number, Fault("too_long", f"line {number}: more than {MAX_LINE_BYTES} bytes")
                )
            else:
                yield Line(number, line.removesuffix(b"\n").removesuffix(b"\r"))


def refuse_other_files(place: str, start: bytes) -> None:
    """Raises ValueError, with the way out, if a file whose first bytes are `start` is packed or no UTF-8."""
    for pattern, what in OTHER_FILES:
        if pattern.match(start):
            raise ValueError(f"{place}: is {what}")


def read_json_lines(place: str) -> Iterator[tuple[int, Any]]:
    """The number of every line that is not blank and its JSON value, or the Fault. Raises as `read_lines` does."""
    for number, content in read_lines(place):
        if isinstance(content, Fault):
            yield number, content
        elif content.strip():
            try:
                yield number, json_value(content)
            except Fault as fault:
                yield number, fault


def read_table(
    place: str, choose: Callable[[Sequence[str]], Sequence[str]], single_line: Collection[str] = ()
) -> Iterator[Row]:
    """The records of a .csv or .tsv file behind its header; bytes that are not UTF-8 become lone surrogates.

    `choose`: of the header's names, the columns that are wanted; it may raise ValueError.
    `single_line`: columns of which no field has line breaks: there they come from a quote that was
    left open. Blank lines are no records. Raises ValueError also for a header that cannot be read
    or has a wanted name twice.
    """
    records = Records(place, DELIMITERS[place[place.rindex(".") :].lower()])
    header = records.header()
    wanted = list(choose(header))
    if twice := [name for name in wanted if header.count(name) > 1]:
        raise ValueError(
            f"{place}: the column {twice[0]!r} is there {header.count(twice[0])} times; rename one"
        )
    columns = [(name, header.index(name)) for name in wanted]
    one_line = [index for name, index in columns if name in single_line]
    for line, fields in records.rows(len(header), one_line):
        if isinstance(fields, Fault):
            yield Row(line, fields)
        elif len(fields) > len(header):
            what = f"line {line}: {len(fields)} fields, more than the {len(header)} of the header"
            yield Row(line, Fault("not_a_record", what))
        else:
            yield Row(
                line,
                {name: fields[index] if index < len(fields) else None for name, index in columns},
            )


def near_name(present: Collection[str], wanted: Iterable[str]) -> str | None:
    """What to say of a name that is one of `wanted` but for case and blanks around it, where that one is not there.

    A column that may be left out would be left out without a word.
    """
    for name in wanted:
        close = [other for other in present if other.strip(BLANKS).casefold() == name.casefold()]
        if close and name not in present:
            return f"has {close[0]!r} and no {name!r}; write {name!r}"
    return None


def json_value(data: bytes) -> Any:
    """A value of untrusted JSON, read strictly: see StrictJson. Raises Fault."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Fault("not_utf8", f"not UTF-8: {error}") from None
    parser = StrictJson()
    try:
        value = parser.decode(text)
    except (ValueError, RecursionError) as error:
        raise Fault("not_json", str(error) or type(error).__name__) from None
    if fault := parser.take_fault():
        raise fault
    return value


class StrictJson:
    """Parses one value after another, and notes what Python's parser lets pass though it is no JSON or says two things:
    NaN and Infinity, and a key that is there twice.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.decoder = json.JSONDecoder(
            parse_constant=self._note_constant, object_pairs_hook=self._to_object
        )

    def decode(self, text: str) -> Any:
        """The one value of a text. Raises ValueError, also for more than MAX_DEPTH levels."""
        refuse_depth(text)
        return self.decoder.decode(text)

    def take_fault(self) -> Fault | None:
        """What was wrong since the last call."""
        faults, self.faults = self.faults, []
        return Fault("not_json", faults[0]) if faults else None

    def _note_constant(self, name: str) -> None:
        self.faults.append(f"{name} is not JSON")

    def _to_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            self.faults.append(
                f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice"
            )
        return found


def refuse_depth(text: str) -> None:
    """Raises ValueError if objects and lists are more than MAX_DEPTH levels deep."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for token in TOKENS.finditer(text):
        mark = token.group()[0]
        depth += (mark in "[{") - (mark in "]}")
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")


def is_unicode(text: str) -> bool:
    """Whether a text can be written; lone surrogates stand for bytes that are not UTF-8, or for half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """A text that can be written: lone surrogates become escapes."""
    return text if is_unicode(text) else text.encode("utf-8", "backslashreplace").decode()


class Records:
    """The records of a file; of a record that turns out to be none, the lines after its first are read again."""

    def __init__(self, place: str, delimiter: str) -> None:
        self.place, self.delimiter, self.has_quotes = (
            place,
            delimiter,
            delimiter == DELIMITERS[".csv"],
        )
        self.lines = read_lines(place)
        self.again: deque[Line] = deque()

    def header(self) -> list[str]:
        """The fields of the first line that is not blank. Raises ValueError."""
        line = next((line for line in self._following() if line.content), None)
        if line is None:
            return []
        try:
            text = _decoded(line)
            if "\r" in text:
                raise Fault(
                    "not_a_record", "lines end with a carriage return alone; write line feeds"
                )
            return self._fields(line.number, text, None, ())
        except Fault as fault:
            raise ValueError(f"{self.place}: the header cannot be read: {fault.detail}") from None

    def rows(
        self, num_columns: int, one_line: Collection[int]
    ) -> Iterator[tuple[int, list[str] | Fault]]:
        """Line and fields of each record."""
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
        """The fields of the record that begins with `text`. Raises Fault."""
        if not self.has_quotes or '"' not in text:
            return text.split(self.delimiter)
        record, taken, size = QuotedRecord(number, self.delimiter), [], len(text)
        try:
            while not record.feed(text):
                line = next(self._following(), None)
                if line is None or num_columns is None or size > MAX_RECORD_CHARACTERS:
                    self.again.extendleft([line] if line else [])
                    raise Fault(
                        "not_a_record", f"line {number}: a quote is opened and never closed"
                    )
                taken.append(line)
                text = _decoded(line)
                size += len(text)
            if taken:
                record.check_lines(num_columns, one_line)
            return record.fields
        except Fault:
            self.again.extendleft(reversed(taken))
            raise


class QuotedRecord:
    """The fields of one record of a .csv, line by line."""

    def __init__(self, line: int, delimiter: str) -> None:
        self.line, self.delimiter = line, delimiter
        self.fields: list[str] = []
        self.quoted: list[str] | None = None  # what has been read of the field whose quote is open
        self.has_stray_quotes = False

    def feed(self, text: str) -> bool:
        """Read a line; True when the record ends with it. Raises Fault."""
        if self.quoted is not None:
            self.quoted.append("\n")
        at = 0
        while True:
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
        """Raises Fault if a record of several lines is not as it should be: then a quote was left open."""
        is_broken = any(
            "\n" in self.fields[index] for index in one_line if index < len(self.fields)
        )
        if self.has_stray_quotes or len(self.fields) != num_columns or is_broken:
            raise Fault(
                "not_a_record", f"line {self.line}: a quote is opened and not closed in this record"
            )

    def _plain(self, text: str, at: int) -> int:
        """Take a field without quotes; where it ended, behind the line if it was the last."""
        end = text.find(self.delimiter, at)
        field = text[at:] if end < 0 else text[at:end]
        self.fields.append(field)
        self.has_stray_quotes |= '"' in field
        return len(text) + 1 if end < 0 else end

    def _inside(self, text: str, at: int) -> int:
        """Go on with the field whose quote is open; where its quote closes, behind the line if it does not."""
        assert self.quoted is not None
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
    """Raises Fault."""
    if isinstance(line.content, Fault):
        raise line.content
    return line.content.decode("utf-8", "surrogateescape")


def _skip_line(file: IO[bytes]) -> None:
    while (part := file.readline(1 << 20)) and not part.endswith(b"\n"):
        pass
