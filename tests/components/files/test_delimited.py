import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.files import delimited
from components.files.delimited import Row, read_table
from components.files.lines import BYTE_ORDER_MARK, Fault


def everything(header: Sequence[str]) -> Sequence[str]:
    return list(header)


def table(path: Path, content: bytes, single_line: Sequence[str] = ()) -> list[Row]:
    path.write_bytes(content)
    return list(read_table(str(path), everything, single_line))


def fields(rows: Sequence[Row]) -> list[Any]:
    return [
        row.values.kind if isinstance(row.values, Fault) else list(row.values.values())
        for row in rows
    ]


ROWS = st.lists(
    st.lists(st.text('a",\n \u2028\x85é', max_size=4), min_size=3, max_size=3), max_size=5
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None
)
@given(rows=ROWS, end=st.sampled_from(["\n", "\r\n"]), bom=st.sampled_from([b"", BYTE_ORDER_MARK]))
def test_a_valid_table_is_what_python_reads(
    tmp_path: Path, rows: list[list[str]], end: str, bom: bytes
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=end)
    writer.writerows([["a", "b", "c"], *rows])
    assert fields(table(tmp_path / "t.csv", bom + text.getvalue().encode())) == rows


def test_a_quote_that_is_left_open_costs_its_line(tmp_path: Path) -> None:
    content = (
        b'a,b\n1,"x\n2,y\n"3,z\n4,"q ""r"" s"\n5,"two\nlines"\n'
        b'6,"x"y\n7,8" disc\n8,1,2\n9\n10,"end\n11,\n'
    )
    rows = table(tmp_path / "t.csv", content)
    broken = "not_a_record"
    assert fields(rows) == [
        *(
            broken,
            ["2", "y"],
            broken,
            ["4", 'q "r" s'],
            ["5", "two\nlines"],
            broken,
            ["7", '8" disc'],
            broken,
        ),
        *(["9", None], broken, ["11", ""]),
    ]
    assert [row.line for row in rows] == [2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13]


def test_a_field_of_one_line_never_swallows_the_next(tmp_path: Path) -> None:
    content = b'image,image_id\na.jpg,"1\nb.jpg,2\nc.jpg,3"\n'
    # as RFC 4180 has it
    assert fields(table(tmp_path / "t.csv", content)) == [["a.jpg", "1\nb.jpg,2\nc.jpg,3"]]
    rows = fields(table(tmp_path / "t.csv", content, ["image_id"]))
    assert rows == ["not_a_record", ["b.jpg", "2"], ["c.jpg", '3"']]


def test_an_open_quote_is_noticed_after_a_bounded_number_of_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "MAX_RECORD_CHARACTERS", 20)
    content = b'a,b\n1,"x\n' + b"2,y\n" * 10 + b'3,"z\n'
    assert fields(table(tmp_path / "t.csv", content)) == [
        "not_a_record",
        *[["2", "y"]] * 10,
        "not_a_record",
    ]


def test_in_a_tsv_quotes_are_characters(tmp_path: Path) -> None:
    rows = table(tmp_path / "t.tsv", b'a\tb\n"1\tx\n2"\t""\n3\t"y\tz"\n')
    assert fields(rows) == [['"1', "x"], ['2"', '""'], "not_a_record"]


@pytest.mark.parametrize("content", [b"a,b,a\n1,2,3\n", b'"a\n1\n', b"a\rb\rc"])
def test_headers_that_say_nothing_are_errors_with_the_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"t\.csv"):
        table(tmp_path / "t.csv", content)
