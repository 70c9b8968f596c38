import json
from pathlib import Path

import pytest

from components import schema
from components.curation.accounting import Outcome, check_reject_fractions, count_outcomes, reject_table, write_report

OUTCOMES = [
    Outcome("1", "captions", None, "", ("cmyk", "first_frame")),
    Outcome("2", "captions", "truncated", "12 bytes short", ()),
    Outcome("3", "captions", "truncated", "13 bytes short", ("cmyk",)),
    Outcome("4", "instruct", None, "", ()),
]


def test_count_outcomes_puts_every_row_in_one_place() -> None:
    report = count_outcomes(OUTCOMES, {"instruct": 1, "captions": 3, "empty": 0})
    assert report["captions"] == {
        "rows_in": 3,
        "rows_kept": 1,
        "rejects": {"truncated": 2},
        "repaired": {"cmyk": 1, "first_frame": 1},
    }
    assert report["empty"] == {"rows_in": 0, "rows_kept": 0, "rejects": {}, "repaired": {}}


def test_count_outcomes_refuses_a_lost_row() -> None:
    with pytest.raises(AssertionError, match="captions: 4 rows in, but 3 kept or rejected"):
        count_outcomes(OUTCOMES, {"instruct": 1, "captions": 4})


def test_check_reject_fractions_names_source_and_reasons() -> None:
    report = count_outcomes(OUTCOMES, {"instruct": 1, "captions": 3})
    check_reject_fractions(report, 0.67)
    with pytest.raises(ValueError, match=r"captions: 2 of 3 rows rejected \(truncated 2\)"):
        check_reject_fractions(report, 0.66)


def test_reject_table_and_report_hold_the_facts(tmp_path: Path) -> None:
    table = reject_table(OUTCOMES)
    assert table.schema == schema.REJECTS
    assert table["sample_id"].to_pylist() == ["2", "3"]
    report = count_outcomes(OUTCOMES, {"instruct": 1, "captions": 3})
    write_report(report, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == report
