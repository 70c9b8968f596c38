"""JSON that nobody checked -> entries, one per row, in bounded memory.

A fault of one row becomes an entry with a `Rejected` in it. Only a file that is broken as a whole (an array that is
cut, text that is not UTF-8) raises ValueError: nothing says then how many rows were lost.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from io import TextIOWrapper
from typing import Any, NamedTuple

from components.curation.reasons import Reason, Rejected
from components.files.storage import name_of, open_file

CHUNK = 1 << 20  # characters read at a time
NEAR_THE_END = 16  # characters: a word, number or escape that is cut by the end of a chunk starts here


class Entry(NamedTuple):
    """One row of a file: the parsed value, or why it cannot be read."""

    place: str  # "file:position", for people and for rows without an id of their own
    value: Any


def read_entries(place: str) -> Iterator[Entry]:
    """The rows of a file with one object per line (.jsonl), or of one that is a single array."""
    return _read_lines(place) if place.endswith(".jsonl") else _read_array(place)


def encode_entries(entries: Sequence[Entry]) -> str:
    """Entries as JSON text, to be sent to another process; `decode_entries` gives them back."""
    return json.dumps([[e.place, *_encode_value(e.value)] for e in entries])


def decode_entries(text: str) -> list[Entry]:
    """What `encode_entries` was given."""
    rows = json.loads(text)
    return [Entry(place, value if why is None else Rejected(Reason(why), value)) for place, value, why in rows]


def read_object(place: str) -> dict[str, Any]:
    """A whole file that holds one JSON object. Raises ValueError that names the byte at which it is broken."""
    try:
        with open_file(place) as file:
            text = file.read().decode("utf-8-sig")
        document = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: is not UTF-8 at byte {error.start}; fetch the file again") from None
    except json.JSONDecodeError as error:
        raise _broken(place, _num_bytes(text[: error.pos]), error.msg) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: is not JSON: {error or type(error).__name__}; fetch the file again") from None
    if not isinstance(document, dict):
        raise ValueError(f"{place}: holds a JSON {type(document).__name__}, not an object")
    return document


def list_in(place: str, document: Mapping[str, Any], key: str) -> list[Any]:
    """A list inside a document. Raises ValueError that names the file."""
    found = document.get(key)
    if not isinstance(found, list):
        raise ValueError(f"{place}: no list {key!r}; is it a caption file of this format?")
    return found


def file_names(place: str, document: Mapping[str, Any]) -> dict[str | int, Any]:
    """The pictures of a document in COCO format, by their ids; those without one cannot be looked up."""
    images = [image for image in list_in(place, document, "images") if isinstance(image, dict)]
    return {image["id"]: image.get("file_name") for image in images if isinstance(image.get("id"), str | int)}


def parse_json(data: bytes) -> Any:
    """A small piece of untrusted JSON. Raises Rejected."""
    parser = RowParser()
    try:
        value = parser.decoder.decode(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Rejected(Reason.BAD_ENCODING, f"not UTF-8: {error}") from None
    except (ValueError, RecursionError) as error:
        raise Rejected(Reason.BAD_JSON, str(error) or type(error).__name__) from None
    if fault := parser.take_fault():
        raise fault
    return value


class RowParser:
    """Parses one row after another, and remembers what Python's parser lets pass though it is no JSON."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.decoder = json.JSONDecoder(parse_constant=self._note_constant, object_pairs_hook=self._to_object)

    def take_fault(self) -> Rejected | None:
        """What was wrong since the last call."""
        faults, self.faults = self.faults, []
        return Rejected(Reason.BAD_JSON, faults[0]) if faults else None

    def _note_constant(self, name: str) -> None:
        self.faults.append(f"{name} is not JSON")

    def _to_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            self.faults.append(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
        return found


class TextWindow:
    """The part of a text file that is being parsed; what was used is forgotten."""

    def __init__(self, place: str, file: TextIOWrapper) -> None:
        self.place, self.file = place, file
        self.text, self.at, self.bytes_before = "", 0, 0
        self.is_at_end = False

    def read_more(self) -> bool:
        """Forget what was used and read on, more if much is still unused; False at the end of the file."""
        self.bytes_before += _num_bytes(self.text[: self.at])
        rest = self.text[self.at :]
        try:
            more = self.file.read(max(CHUNK, len(rest)))
        except UnicodeDecodeError as error:
            byte = self.bytes_before + _num_bytes(rest) + error.start
            raise ValueError(f"{self.place}: is not UTF-8 near byte {byte}; fetch the file again") from None
        self.text, self.at, self.is_at_end = rest + more, 0, not more
        return bool(more)

    def next_character(self) -> str:
        """The next character that is no white space, "" at the end; it is not used up."""
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
    parser, name = RowParser(), name_of(place)
    with open_file(place) as file:
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
            yield Entry(f"{name}:{index}", parser.take_fault() or value)
            index += 1
        window.at += 1
        if window.next_character():
            raise window.broken(window.at, "Extra data")


def _next_value(window: TextWindow, parser: RowParser) -> Any:
    """One value of the array; reads on as long as it may only be cut by the end of what was read."""
    while True:
        try:
            value, end = parser.decoder.raw_decode(window.text, window.at)
        except json.JSONDecodeError as error:
            is_cut = error.msg.startswith("Unterminated") or error.pos >= len(window.text) - NEAR_THE_END
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
    with open_file(place) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield Entry(f"{name}:{number}", parse_json(line))
                except Rejected as error:
                    yield Entry(f"{name}:{number}", error)


def _encode_value(value: Any) -> tuple[Any, str | None]:
    return (value.detail, value.reason.value) if isinstance(value, Rejected) else (value, None)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _num_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _broken(place: str, byte: int, why: str) -> ValueError:
    return ValueError(f"{place}: is not JSON from byte {byte} on ({why}); fetch the file again")
