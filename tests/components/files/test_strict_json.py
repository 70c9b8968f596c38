import json
from pathlib import Path

import pytest

from components.files.lines import Fault
from components.files.strict_json import json_value, read_json_lines


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"a": 1, "a": 1}', "'a' is there twice"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b'{"a": 1}{"a": 2}', "Extra data"),
        (b"[" * 101 + b"]" * 101, "more than 100 levels"),
        (b'{"a":' * 100_000, "more than 100 levels"),
        (b"9" * 5000, "digits"),
        (b'"\xff"', "not UTF-8"),
    ],
)
def test_json_is_read_strictly(data: bytes, said: str) -> None:
    with pytest.raises(Fault, match=said):
        json_value(data)


def test_json_values_are_exact_and_brackets_in_texts_are_no_depth() -> None:
    assert json_value(b"[18446744073709551617]") == [2**64 + 1]
    assert json_value(b"[" * 100 + b"]" * 100)
    text = '[{"' * 1000 + "\\"
    assert json_value(json.dumps({"a": text}).encode()) == {"a": text}


def test_json_lines_number_what_is_not_blank(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\n1\n \t\r\n{\n"a"')
    found = list(read_json_lines(str(path)))
    assert [number for number, _ in found] == [2, 4, 5]
    assert isinstance(found[1][1], Fault)
