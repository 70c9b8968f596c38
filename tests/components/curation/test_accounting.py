import json
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from components import schema
from components.curation.accounting import (
    Outcome,
    check_reject_fractions,
    count_decided,
    count_outcomes,
    make_report,
    write_rejects,
    write_report,
)

OUTCOMES = [
    Outcome("1", "captions", None, "", ("cmyk", "first_frame")),
    Outcome("2", "captions", "truncated", "12 bytes short", ()),
    Outcome("3", "captions", "truncated", "13 bytes short", ("cmyk",)),
    Outcome("4", "instruct", None, "", ()),
]


ROWS_IN = {"instruct": 1, "captions": 3}
TABLES = """
CREATE TABLE rows AS FROM (VALUES (1, '1', 'captions', ['cmyk', 'alpha']),
    (3, '3', 'captions', ['cmyk']),
    (2, '2', 'captions', []), (4, '4', 'instruct', [])) AS rows (place, sample_id, source, repairs);
CREATE TABLE rejected AS FROM (VALUES (3, 'truncated', 'cut'), (2, 'truncated', 'cut'))
    AS rejected (place, reason, detail);
CREATE VIEW kept AS SELECT * FROM rows ANTI JOIN rejected USING (place);
CREATE TABLE samples AS SELECT place, source, place = 4 AS is_renamed FROM kept;
"""


def test_make_report_puts_every_row_in_one_place() -> None:
    report = make_report([count_outcomes(OUTCOMES)], {**ROWS_IN, "empty": 0})
    assert report["captions"] == {
        "rows_in": 3,
        "rows_kept": 1,
        "rejects": {"truncated": 2},
        "repaired": {"cmyk": 1, "first_frame": 1},
    }
    assert report["empty"] == {"rows_in": 0, "rows_kept": 0, "rejects": {}, "repaired": {}}


def test_make_report_adds_up_what_was_counted_apart() -> None:
    parts = [count_outcomes(OUTCOMES[:2]), count_outcomes(OUTCOMES[2:])]
    assert make_report(parts, ROWS_IN) == make_report([count_outcomes(OUTCOMES)], ROWS_IN)


def test_make_report_refuses_a_lost_row() -> None:
    with pytest.raises(AssertionError, match="captions: 4 rows in, but 3 kept or rejected"):
        make_report([count_outcomes(OUTCOMES)], {"instruct": 1, "captions": 4})


def test_count_decided_counts_rows_and_repairs_of_kept_rows() -> None:
    with duckdb.connect() as database:
        database.execute(TABLES)
        ends, repairs = count_decided(database)
    assert ends == {("captions", None): 1, ("captions", "truncated"): 2, ("instruct", None): 1}
    assert repairs == {
        ("captions", "cmyk"): 1,
        ("captions", "alpha"): 1,
        ("instruct", "id_made_unique"): 1,
    }


def test_check_reject_fractions_names_source_and_reasons() -> None:
    report = make_report([count_outcomes(OUTCOMES)], ROWS_IN)
    check_reject_fractions(report, 0.67)
    with pytest.raises(ValueError, match=r"captions: 2 of 3 rows rejected \(truncated 2\)"):
        check_reject_fractions(report, 0.66)


def test_rejects_and_report_hold_the_facts(tmp_path: Path) -> None:
    at_hand = [
        Outcome("5", "questions", "image_missing", "x.jpg", ()),
        Outcome("6", "questions", None, "", ()),
    ]
    with duckdb.connect() as database:
        database.execute(TABLES)
        write_rejects(database, at_hand, tmp_path / "rejects.parquet")
    table = pq.read_table(tmp_path / "rejects.parquet")
    assert table.schema == schema.REJECTS
    assert table["sample_id"].to_pylist() == ["2", "3", "5"]  # in input order, those at hand last
    report = make_report([count_outcomes(OUTCOMES)], ROWS_IN)
    write_report(report, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == report
