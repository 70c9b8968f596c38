"""Conditions against a plain loop over rows, and those that say nothing."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.search.filters import FilterError, matching_rows
from components.search.index_folder import PICTURES

IDS = ["007", "b", "c'd", "e"]
TABLE = pa.table([IDS, [10, 20, 30, 40], [4, 3, 2, 1]], schema=PICTURES)


@pytest.fixture(params=["facts.parquet", "facts [1].csv"])
def metadata(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    facts = pa.table(
        {
            "image_id": ["c'd", "007", "elsewhere"],
            "licence": ["CC0", "BY", "BY"],
            "Width": [1, 1, 1],
        }
    )
    path = tmp_path / str(request.param)
    pq.write_table(facts, path) if path.suffix == ".parquet" else pyarrow.csv.write_csv(facts, path)
    return path


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30),
    st.integers(0, 9),
)
def test_condition_equals_a_loop(sizes: list[tuple[int, int]], bound: int) -> None:
    widths, heights = zip(*sizes, strict=True)
    pictures = pa.table([[str(row) for row in range(len(sizes))], widths, heights], schema=PICTURES)
    wanted = [
        row for row, (width, height) in enumerate(sizes) if width > bound or height * 2 < width
    ]
    if wanted:
        found = matching_rows(pictures, None, f"width > {bound} OR height * 2 < width")
        assert (found.tolist(), found.dtype) == (wanted, np.int64)
    else:
        with pytest.raises(FilterError, match=f"none of {len(sizes)}"):
            matching_rows(pictures, None, f"width > {bound} OR height * 2 < width")


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("licence = 'CC0'", [2]),
        ("licence IS NULL", [1, 3]),  # nothing is known of these
        ("licence = 'BY' OR width = 40 -- a comment", [0, 3]),
        ("width > 10 AND licence IS NOT NULL", [2]),  # the store's width, not the table's
        ("image_id IN (SELECT image_id FROM pictures WHERE height < 3)", [2, 3]),
    ],
)
def test_metadata_is_joined_by_id(metadata: Path, condition: str, rows: list[int]) -> None:
    assert matching_rows(TABLE, metadata, condition).tolist() == rows


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("width >", "Parser Error"),
        (
            "widht > 3",
            "widht.*columns are image_id VARCHAR, width INTEGER, height INTEGER, licence VARCHAR",
        ),
        ("width > 1000", "matches none of 4 pictures"),
        ("true); DROP TABLE pictures; SELECT (1", "not one condition"),
        ("licence = 'CC0' AND width > 'wide'", "wide"),
    ],
)
def test_conditions_that_say_nothing(metadata: Path, condition: str, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        matching_rows(TABLE, metadata, condition)


def test_no_other_file_is_read(metadata: Path) -> None:
    for condition in (
        f"image_id IN (SELECT image_id FROM '{metadata}')",
        "image_id IN (SELECT content FROM read_text('/etc/hostname'))",
    ):
        with pytest.raises(FilterError, match="--where"):
            matching_rows(TABLE, metadata, condition)


def test_tables_that_do_not_fit(tmp_path: Path) -> None:
    for name, columns, message in (
        ("facts.json", {"image_id": ["b"]}, "neither .parquet nor .csv"),
        ("ids.parquet", {"id": ["b"]}, "no column image_id, only id"),
        ("others.parquet", {"image_id": ["x"]}, "mentions none of the 4"),
        ("twice.parquet", {"image_id": ["b", "b"]}, "several rows for image_id 'b'"),
    ):
        pq.write_table(pa.table(columns), tmp_path / name)
        with pytest.raises(FilterError, match=message):
            matching_rows(TABLE, tmp_path / name, "true")
    with pytest.raises(FilterError, match="no such file"):
        matching_rows(TABLE, tmp_path / "nowhere.csv", "true")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(FilterError, match="broken"):
        matching_rows(TABLE, tmp_path / "broken.parquet", "true")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_id,a\nb,x\ne,y,z\n", "line 3: 3 fields, more than the 2 of the header"),
        ("image_id,a,c\nb,x,1\ne,y\n", "line 3: ends before the column c"),
        ('image_id,a\nb,"x\ne,y\n', "line 2: a quote is opened and never closed"),
        ("image_id,a,A\nb,x,y\n", "several columns a"),
        ("image_id,image_id\nb,x\n", "several columns image_id"),
        ("image_id;a\nb;x\n", "no column image_id, only image_id;a"),
        ("", "no column image_id, only $"),
        ("image_id,a\nb,\udcff\n", "line 2: a is not UTF-8"),
        ("\udcff\udcfei\0m\0", "is UTF-16"),
    ],
)
def test_a_table_that_is_not_in_order_is_named_with_the_line(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "facts.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(FilterError, match=message):
        matching_rows(TABLE, tmp_path / "facts.csv", "true")


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("year >= 2000", [0, 1]),
        ("code LIKE '00%'", [0, 2]),  # not a number
        ("day > DATE '2020-01-01'", [1]),
        ("note = 'a \u2028b, \"c\"'", [0]),
        ("share < 0.5 AND is_free", [1]),
        ("day IS NULL", [2, 3]),
    ],
)
def test_columns_of_a_table_of_text_are_what_all_their_values_are(
    tmp_path: Path, condition: str, rows: list[int]
) -> None:
    (tmp_path / "facts.csv").write_text(
        "image_id,year,code,day,note,share,is_free,\n"
        '007,2000,007,2020-01-01,"a \u2028b, ""c""",0.5,true,\n'
        "b,2001,1,2020-01-02,,.25,true,\nc'd,1,00,,x,1e3,false,\n"
    )
    assert matching_rows(TABLE, tmp_path / "facts.csv", condition).tolist() == rows


def test_numbers_of_a_csv_are_never_rounded(tmp_path: Path) -> None:
    ids = TABLE["image_id"].to_pylist()[:2]
    path = tmp_path / "facts.csv"
    for first, second, condition in (
        ("0.5", "1", "n = 0.5"),
        ("9007199254740993", "0.5", "n = '9007199254740993'"),
        ("12345678901234567890123", "12345678901234567890124", "n = '12345678901234567890123'"),
        ("0x10", "1", "n = '0x10'"),
        ("1_000", "1", "n = '1_000'"),
        ("1e3", "1", "n = 1000.0"),
        ("1e400", "1", "n LIKE '1e400'"),  # a DOUBLE has no such number
        ("1e-400", "1", "n LIKE '1e-400'"),  # nor this one, but zero
        ("0.0e5", "1", "n = 0"),
    ):
        path.write_text(f"image_id,n\n{ids[0]},{first}\n{ids[1]},{second}\n")
        assert matching_rows(TABLE, path, condition).tolist() == [0], condition


def test_a_condition_that_is_not_unicode_is_an_error() -> None:
    with pytest.raises(FilterError, match="not valid Unicode"):
        matching_rows(TABLE, None, "'\ud800' = 'x'")
