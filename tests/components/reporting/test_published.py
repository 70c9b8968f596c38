"""Typed numbers against a second typing: sums of all columns, and rows as others repeat them."""

from pathlib import Path

import pytest

from components.reporting import published
from components.reporting.published import published_markdown, read_published

SUMS = {  # added up from the lines of the paper
    1: [880.8, 937.9, 19614.6, 1242.2, 956.1, 584.9, 741.9, 1028.3],
    2: [233.2, 600.0, 205.7, 444.4, 251.5, 901.9, 232.6, 474.7, 332.0, 814.7, 239.1, 503.4],
    3: [887.2, 1145.5, 562.7, 963.6, 726.4, 1098.1, 1036.2, 1181.7, 742.2, 1073.7, 902.5, 1165.9],
    4: [1236.8, 1103.3, 976.2, 848.9, 912.5, 1146.0, 1060.2],
    9: [289.6, 430.1, 175.7, 341.2, 231.0, 405.7, 321.4, 448.5, 198.8, 356.9, 259.4, 423.7],
    10: [453.7, 408.3, 387.8, 342.0, 326.8, 393.2, 370.9],
    11: [204.4, 689.7, 184.5, 392.0],
}
ROWS = {1: 15, 2: 9, 3: 12, 4: 13, 9: 5, 10: 5, 11: 9}
TYPED_AGAIN = [
    (1, "Fwd2Bot", 32, "61.6/64.6/1472.1/85.9/68.5/55.8/53.1/77.1"),
    (1, "Fwd2Bot", 16, "61.0/64.4/1470.0/85.6/67.7/54.2/49.8/76.5"),
    (1, "Fwd2Bot", 4, "58.6/63.3/1403.0/84.3/67.7/52.5/51.6/74.5"),
    (1, "TokenPacker", 36, "59.6/62.8/1440.9/83.3/71.0/53.2/50.2/75.0"),
    (1, "M3", 36, "60.3/64.8/–/85.5/–/–/52.8/–"),
    (1, "MQT", 4, "53.0/56.5/1176.1/77.6/65.1/–/49.4/64.1"),
    (1, "QueCC", 16, "59.0/62.2/1408.0/83.4/70.7/51.3/47.7/74.5"),
    (2, "MQT", 4, "20.1/47.5/19.8/44.5/23.2/81.0/23.0/48.6/28.4/63.2/21.1/49.5"),
    (3, "E5-V (LLaVA-1.5-7B)", None, "76.7/96.9/48.2/82.1/62.0/93.0/86.6/99.0/57.4/88.4/71.9/97.0"),
    (
        3,
        "VLM2Vec (Mistral-7B)",
        None,
        "80.1/97.3/52.0/85.6/65.9/94.5/90.3/99.6/68.2/93.2/79.2/98.5",
    ),
    (4, "NegCLIP", 0.15, "92.7/85.9/76.5/75.2/75.4/88.8/82.8"),
    (9, "PruMerge", 18, "34.7/67.9/18.4/47.9/25.8/62.7/38.3/74.3/19.8/49.9/28.2/65.2"),
    (10, "Fwd2Bot", 16, "98.1/89.5/82.7/77.8/78.1/95.3/93.1"),
    (11, "M3", 36, "25.1/94.8/23.0/46.3"),
]
TABLES = {table.table: table for table in read_published().tables}


def test_every_table_has_its_rows() -> None:
    assert {number: len(table.rows) for number, table in TABLES.items()} == ROWS


@pytest.mark.parametrize("number", SUMS)
def test_columns_add_up(number: int) -> None:
    table = TABLES[number]
    columns = zip(*(row[2:] for row in table.rows), strict=True)
    assert [
        round(sum(float(cell) for cell in column if cell is not None), 1) for column in columns
    ] == SUMS[number]


@pytest.mark.parametrize(("number", "method", "given", "cells"), TYPED_AGAIN)
def test_rows_equal_a_second_typing(
    number: int, method: str, given: float | None, cells: str
) -> None:
    (row,) = [row for row in TABLES[number].rows if row[:2] == (method, given)]
    assert ["–" if cell is None else f"{cell:.1f}" for cell in row[2:]] == cells.split("/")


def test_the_same_rows_stand_in_tables_3_and_9_and_in_4_and_10() -> None:
    for large, small in ((3, 9), (4, 10)):
        for method in ("LLaVA-1.5-7B", "Fwd2Bot"):
            ours, theirs = (
                next(row[2:] for row in TABLES[number].rows if str(row[0]).startswith(method))
                for number in (large, small)
            )
            assert ours == theirs


def test_the_caution_about_table_3_is_told_with_it() -> None:
    assert "VladVA" in " ".join(TABLES[3].notes)
    assert "VladVA" in published_markdown(read_published()).split("Table 4")[0]


def test_a_row_that_lacks_a_number_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "published.yaml").write_text(
        published.PATH.read_text().replace("4, 25.4, 86.1,", "4, 86.1,")
    )
    monkeypatch.setattr(published, "PATH", tmp_path / "published.yaml")
    with pytest.raises(ValueError, match="table 11, Fwd2Bot: 3 numbers"):
        read_published()
