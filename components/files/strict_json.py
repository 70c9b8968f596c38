"""Strict JSON: values that only Python's parser accepts, and repeated keys, are faults."""

import json
import re
from collections.abc import Iterator
from typing import Any

from components.files.lines import Fault, read_lines

MAX_DEPTH = 100  # of objects and lists in each other; the same on every machine, whatever its stack
# A string, or a bracket outside of one. A string that is cut matches too: no text is gone through
# twice.
TOKENS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


class StrictJson:
    """A parser of one value after another; it notes NaN, Infinity and keys that are there twice."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.decoder = json.JSONDecoder(
            parse_constant=self._note_constant, object_pairs_hook=self._to_object
        )

    def decode(self, text: str) -> Any:
        """Return the value of a text. Raises ValueError, also for more than MAX_DEPTH levels."""
        refuse_depth(text)
        return self.decoder.decode(text)

    def take_fault(self) -> Fault | None:
        """Return the first fault since the last call, if any."""
        faults, self.faults = self.faults, []
        return Fault("not_json", faults[0]) if faults else None

    def _note_constant(self, name: str) -> None:
        self.faults.append(f"{name} is not JSON")

    def _to_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            self.faults.append(f"the key {twice!r} is there twice")
        return found


def json_value(data: bytes) -> Any:
    """Parse untrusted JSON strictly. Raises Fault."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Fault("not_utf8", f"not UTF-8: {error}") from None

    parser = StrictJson()
    try:
        value = parser.decode(text)
    except (ValueError, RecursionError) as error:
        raise Fault("not_json", str(error) or type(error).__name__) from None

    # The parser goes on behind faults of its own: a value is there, and not to be trusted.
    if fault := parser.take_fault():
        raise fault
    return value


def read_json_lines(place: str) -> Iterator[tuple[int, Any]]:
    """Yield the number of every line that is not blank, and its JSON value or the Fault.

    Raises ValueError and OSError as `read_lines`.
    """
    for number, content in read_lines(place):
        if isinstance(content, Fault):
            yield number, content
        elif content.strip():
            try:
                yield number, json_value(content)
            except Fault as fault:
                yield number, fault


def refuse_depth(text: str) -> None:
    """Raise ValueError if objects and lists are more than MAX_DEPTH levels deep."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for token in TOKENS.finditer(text):
        mark = token.group()[0]
        depth += (mark in "[{") - (mark in "]}")
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
