"""Lines of text files that others wrote.

Only a line feed ends a line, and a carriage return before it goes with it: no other character of a
text splits it. A line that cannot be read is a `Fault` in its place, so that lines in = rows +
faults; only a file that is no such text at all (packed, UTF-16) raises ValueError.
"""

import re
from collections.abc import Iterator
from typing import IO, Literal, NamedTuple

from components.files.storage import open_file

MAX_LINE_BYTES = 1 << 26  # no row of a data set has 64 MB
SKIPPED_BYTES = 1 << 20  # of a longer line, at a time
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# The first bytes of files that are no text, and what to do about them.
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


def read_lines(place: str) -> Iterator[Line]:
    """Yield the lines of a file, in bounded memory. Raises OSError; ValueError for other files."""
    with open_file(place) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1

            # Only the beginning of a file tells what kind it is.
            if number == 1:
                refuse_other_files(place, line)
                line = line.removeprefix(BYTE_ORDER_MARK)

            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                _skip_line(file)
                detail = f"line {number}: more than {MAX_LINE_BYTES} bytes"
                yield Line(number, Fault("too_long", detail))
            else:
                yield Line(number, line.removesuffix(b"\n").removesuffix(b"\r"))


def refuse_other_files(place: str, start: bytes) -> None:
    """Raise ValueError, with the way out, if a file that begins so is packed or no UTF-8."""
    for pattern, what in OTHER_FILES:
        if pattern.match(start):
            raise ValueError(f"{place}: is {what}")


def _skip_line(file: IO[bytes]) -> None:
    while (part := file.readline(SKIPPED_BYTES)) and not part.endswith(b"\n"):
        pass
