"""JSON that nobody checked -> entries, one per row, in bounded memory.

A fault of one row becomes an entry with a `Rejected` in it. Only a file that is broken as a whole
(an array that is cut, text that is not UTF-8) raises ValueError: nothing says then how many rows
were lost.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from io import TextIOWrapper
from typing import Any, NamedTuple

from components.curation.reasons import Reason, Rejected
from components.files.lines import Fault, refuse_other_files
from components.files.storage import name_of, open_file
from components.files.strict_json import StrictJson, json_value, read_json_lines, refuse_depth

CHUNK = 1 << 20  # characters read at a time
# characters: a word, number or escape that is cut by the end of a chunk starts here
NEAR_THE_END = 16
SHOWN_CHARACTERS = 100
# of a Fault; any other is a bad record
REASONS = {"not_utf8": Reason.BAD_ENCODING, "not_json": Reason.BAD_JSON}


class Entry(NamedTuple):
    """One row of a file: the parsed value, or why it cannot be read."""

    place: str  # "file:position", for people and for rows without an id of their own
    value: Any


def read_entries(place: str) -> Iterator[Entry]:
    """Yield the rows of a file with one object per line (.jsonl), or of one that is an array."""
    return _read_lines(place) if place.endswith(".jsonl") else _read_array(place)


def encode_entries(entries: Sequence[Entry]) -> str:
    """Write entries as JSON text, for another process; `decode_entries` gives them back."""
    rows: list[tuple[str, Any, str | None]] = []
    for place, value in entries:
        if isinstance(value, Rejected):
            rows.append((place, value.detail, value.reason.value))
        else:
            rows.append((place, value, None))
    return json.dumps(rows)


def decode_entries(text: str) -> list[Entry]:
    """Read entries from the text of `encode_entries`."""
    entries = []
    for place, value, reason in json.loads(text):
        is_read = reason is None
        entries.append(Entry(place, value if is_read else Rejected(Reason(reason), value)))
    return entries


def read_object(place: str) -> dict[str, Any]:
    """Read a file of one JSON object. Raises ValueError with the byte at which it breaks."""
    parser = StrictJson()
    try:
        with open_file(place) as file:
            refuse_other_files(place, file.read(NEAR_THE_END))
            file.seek(0)
            text = file.read().decode("utf-8-sig")

        document = parser.decode(text)
        if fault := parser.take_fault():
            raise ValueError(fault.detail)
    # Both are classes of ValueError, and tell where the file breaks.
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place}: is not UTF-8 at byte {error.start}; fetch the file again"
        ) from None
    except json.JSONDecodeError as error:
        raise _broken(place, _num_bytes(text[: error.pos]), error.msg) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{place}: is not JSON: {error or type(error).__name__}; fetch the file again"
        ) from None

    if not isinstance(document, dict):
        raise ValueError(f"{place}: holds a JSON {type(document).__name__}, not an object")
    return document


def list_in(place: str, document: Mapping[str, Any], key: str) -> list[Any]:
    """Return a list inside a document. Raises ValueError that names the file."""
    found = document.get(key)
    if not isinstance(found, list):
        raise ValueError(f"{place}: no list {key!r}; is it a caption file of this format?")
    return found


class PictureNames:
    """The pictures of a COCO document by ids, numbers in one place and text in another."""

    def __init__(self, place: str, document: Mapping[str, Any]) -> None:
        self.names: dict[str, Any] = {}
        self.repeated: set[str] = set()  # which one is meant nobody knows
        for image in list_in(place, document, "images"):
            if not isinstance(image, dict):
                continue
            image_id = id_text(image.get("id"))
            name = image.get("file_name")
            if image_id is not None and self.names.setdefault(image_id, name) != name:
                self.repeated.add(image_id)

    def find(self, value: object) -> str:
        """Return the file name of a picture. Raises Rejected."""
        image_id, named = id_text(value), f"the id {shown(value)}"
        if image_id is None:
            raise Rejected(Reason.BAD_RECORD, f"image_id is {shown(value)}, not a number or text")
        if image_id not in self.names:
            raise Rejected(Reason.IMAGE_MISSING, f"`images` has no picture with {named}")
        if image_id in self.repeated:
            raise Rejected(Reason.BAD_RECORD, f"`images` has several pictures with {named}")

        name = self.names[image_id]
        if not isinstance(name, str) or not name:
            what = f"the picture with {named} has no file_name in `images`"
            raise Rejected(Reason.BAD_RECORD, what)
        return name


def id_text(value: object) -> str | None:
    """Return an id as text: text as it is, a whole number in digits; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value) or None


def shown(value: object) -> str:
    """Return a value for a message, cut."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def parse_json(data: bytes) -> Any:
    """Parse a small piece of untrusted JSON. Raises Rejected."""
    try:
        return json_value(data)
    except Fault as fault:
        raise rejected_line(fault) from None


def rejected_line(fault: Fault) -> Rejected:
    """Return a line's fault as the reason of its row."""
    return Rejected(REASONS.get(fault.kind, Reason.BAD_RECORD), fault.detail)


class TextWindow:
    """The part of a text file that is being parsed; parsed text is dropped."""

    def __init__(self, place: str, file: TextIOWrapper) -> None:
        self.place, self.file = place, file
        self.text, self.at, self.bytes_before = "", 0, 0
        self.is_at_end = False

    def read_more(self) -> bool:
        """Drop parsed text and read on, more if much is left; return False at the end."""
        self.bytes_before += _num_bytes(self.text[: self.at])
        rest = self.text[self.at :]

        # A long value is parsed again from its beginning: reading as much as there is bounds that.
        try:
            more = self.file.read(max(CHUNK, len(rest)))
        except UnicodeDecodeError as error:
            byte = self.bytes_before + _num_bytes(rest) + error.start
            raise ValueError(
                f"{self.place}: is not UTF-8 near byte {byte}; fetch the file again"
            ) from None

        self.text, self.at, self.is_at_end = rest + more, 0, not more
        return bool(more)

    def next_character(self) -> str:
        """Return the next character that is no white space, "" at the end; it is not used up."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in " \t\r\n":
                    return self.text[self.at]
                self.at += 1
            if not self.read_more():
                return ""

    def broken(self, at: int, why: str) -> ValueError:
        return _broken(self.place, self.bytes_before + _num_bytes(self.text[:at]), why)


def _read_array(place: str) -> Iterator[Entry]:
    parser, name = StrictJson(), name_of(place)
    with open_file(place) as file:
        refuse_other_files(place, file.read(NEAR_THE_END))
        file.seek(0)
        window = TextWindow(place, TextIOWrapper(file, encoding="utf-8-sig", newline=""))
        if (first := window.next_character()) != "[":
            what = "empty" if not first else "no JSON array of records"
            raise ValueError(f"{place}: is {what}; one with a record per line is called .jsonl")
        window.at += 1

        index = 0
        while (character := window.next_character()) != "]":
            if index:
                if character != ",":
                    raise window.broken(window.at, "Expecting ',' delimiter")
                window.at += 1
                window.next_character()

            value = _next_value(window, parser)
            fault = parser.take_fault()
            yield Entry(f"{name}:{index}", rejected_line(fault) if fault else value)
            index += 1

        # Behind the array nothing may follow.
        window.at += 1
        if window.next_character():
            raise window.broken(window.at, "Extra data")


def _next_value(window: TextWindow, parser: StrictJson) -> Any:
    """Return the next value of the array; read on while the end of the window may cut it."""
    while True:
        try:
            value, end = parser.decoder.raw_decode(window.text, window.at)
            refuse_depth(window.text[window.at : end])
        except json.JSONDecodeError as error:
            # The end of what was read may have cut a text, a word or a number.
            is_near_the_end = error.pos >= len(window.text) - NEAR_THE_END
            is_cut = error.msg.startswith("Unterminated") or is_near_the_end
            fault = window.broken(error.pos, error.msg)
            if not is_cut or not window.read_more():
                raise fault from None
            parser.take_fault()
            continue
        except (ValueError, RecursionError) as error:
            raise window.broken(window.at, str(error) or type(error).__name__) from None

        if end <= len(window.text) - NEAR_THE_END or window.is_at_end:
            window.at = end
            return value
        window.read_more()  # a number may go on
        parser.take_fault()


def _read_lines(place: str) -> Iterator[Entry]:
    name = name_of(place)
    for number, value in read_json_lines(place):
        yield Entry(f"{name}:{number}", rejected_line(value) if isinstance(value, Fault) else value)


def _num_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _broken(place: str, byte: int, why: str) -> ValueError:
    return ValueError(f"{place}: is not JSON from byte {byte} on ({why}); fetch the file again")
