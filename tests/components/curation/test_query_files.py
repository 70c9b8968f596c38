import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components import schema
from components.curation.query_files import check_query_files, query_rows, write_queries
from components.curation.text_filters import TextLimits

LIMITS = TextLimits(min_caption_characters=3, max_caption_characters=100, max_turn_characters=100)
PICTURES = {"a.jpg": True, "b.jpg": True, "lost.jpg": False}
HEADER = "query-id\tcorpus-id\tscore\n"


def query(query_id: object, text: object = "a red star", kind: object = "one_object") -> str:
    return json.dumps({"_id": query_id, "text": text, "metadata": {"kind": kind}})


def write_files(folder: Path, queries: list[str], qrels: list[str], header: str = HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "queries.jsonl").write_text("".join(f"{line}\n" for line in queries))
    (folder / "qrels.tsv").write_text(header + "".join(f"{line}\n" for line in qrels))
    return folder


def test_a_query_has_all_pictures_that_fit_it(tmp_path: Path) -> None:
    qrels = ["2\tpictures/b.jpg\t1", "q\tb.jpg\t1", "2\ta.jpg\t1"]
    write_files(tmp_path, [query("q"), query(2, "a star\x00 and a dot", "two_object")], qrels)
    rows, of_queries, of_fitting = query_rows(tmp_path, "test", PICTURES, LIMITS)
    assert rows == [
        {
            "query_id": "q",
            "split": "test",
            "kind": "one_object",
            "text": "a red star",
            "image_ids": ["b.jpg"],
        },
        {
            "query_id": "2",
            "split": "test",
            "kind": "two_object",
            "text": "a star and a dot",
            "image_ids": ["a.jpg", "b.jpg"],
        },
    ]
    assert {outcome.reason for outcome in of_queries + of_fitting} == {None}
    assert of_queries[1].repairs == ("control_characters",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q\tnone.jpg\t1", "image_missing"),
        ("q\tlost.jpg\t1", "picture_rejected"),
        ("unknown\ta.jpg\t1", "unknown_query"),
        ("q\tb.jpg\t0", "bad_record"),
        ("q\tb.jpg\t2", "bad_record"),
        ("q\tb.jpg\t1.0", "bad_record"),
        ("q\tb.jpg\t", "bad_record"),
        ("q\tb.jpg", "bad_record"),
        ("q", "bad_record"),
        ("q\tb.jpg\t1\t1", "bad_record"),
        ("q\ta.jpg\t1", "duplicate_id"),
        ("q\tpictures/a.jpg\t1", "duplicate_id"),
        ("\ta.jpg\t1", "unknown_query"),
    ],
)
def test_a_row_of_qrels_that_says_nothing_is_a_reject(
    tmp_path: Path, line: str, reason: str
) -> None:
    write_files(tmp_path, [query("q")], ["q\ta.jpg\t1", line])
    rows, of_queries, of_fitting = query_rows(tmp_path, "test", PICTURES, LIMITS)
    assert [row["image_ids"] for row in rows] == [["a.jpg"]]
    assert [outcome.reason for outcome in of_queries] == [None]
    assert [(outcome.sample_id, outcome.reason) for outcome in of_fitting] == [
        ("qrels.tsv:1", None),
        ("qrels.tsv:2", reason),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (query("new", text=" "), "empty_text"),
        (query("new", text="x" * 101), "text_too_long"),
        (query("new", text=None), "bad_record"),
        (query("new", kind=""), "empty_text"),
        (json.dumps({"_id": "new", "text": "a star"}), "bad_record"),
        (json.dumps({"_id": "new", "text": "a star", "metadata": None}), "bad_record"),
        (query(1.5), "bad_record"),
        (query("q", text="another"), "duplicate_id"),
        ("[1]", "bad_record"),
        ("{", "bad_json"),
        (query("alone"), "no_fitting_picture"),
    ],
)
def test_a_query_that_cannot_be_asked_or_scored_is_a_reject(
    tmp_path: Path, line: str, reason: str
) -> None:
    write_files(tmp_path, [query("q"), line], ["q\ta.jpg\t1", "new\ta.jpg\t1"])
    rows, of_queries, of_fitting = query_rows(tmp_path, "test", PICTURES, LIMITS)
    assert [row["query_id"] for row in rows] == ["q"]
    assert [outcome.reason for outcome in of_queries] == [None, reason]
    # what fits a query that was rejected is of no use either
    assert [outcome.reason for outcome in of_fitting] == [None, "unknown_query"]


def test_a_query_whose_pictures_were_all_rejected_goes_with_them(tmp_path: Path) -> None:
    write_files(tmp_path, [query("1"), query("2")], ["1\tlost.jpg\t1", "2\ta.jpg\t1"])
    rows, of_queries, of_fitting = query_rows(tmp_path, "test", PICTURES, LIMITS)
    assert [row["query_id"] for row in rows] == ["2"]
    assert [outcome.reason for outcome in of_queries] == ["no_fitting_picture", None]
    assert [outcome.reason for outcome in of_fitting] == ["picture_rejected", None]


def test_every_split_has_a_table_and_a_count_with_files_or_without(tmp_path: Path) -> None:
    write_files(tmp_path / "raw/evaluation/test", [query("q")], ["q\ta.jpg\t1", "q\tx.jpg\t1"])
    splits = {"test": PICTURES, "validation": PICTURES}
    assert check_query_files(tmp_path / "raw", splits) == ["validation"]
    outcomes, rows_in = write_queries(tmp_path / "raw", tmp_path / "out", splits, LIMITS)
    assert rows_in == {
        "evaluation/test/queries": 1,
        "evaluation/test/qrels": 2,
        "evaluation/validation/queries": 0,
        "evaluation/validation/qrels": 0,
    }
    assert [(outcome.source, outcome.reason) for outcome in outcomes] == [
        ("evaluation/test/queries", None),
        ("evaluation/test/qrels", None),
        ("evaluation/test/qrels", "image_missing"),
    ]
    tables = [pq.read_table(tmp_path / f"out/queries/{split}.parquet") for split in splits]
    assert [len(table) for table in tables] == [1, 0]
    assert all(table.schema.equals(schema.QUERIES) for table in tables)


@pytest.mark.parametrize("name", ["queries.jsonl", "qrels.tsv"])
def test_one_file_without_the_other_stops_before_any_row(tmp_path: Path, name: str) -> None:
    folder = write_files(tmp_path / "evaluation/test", [query("q")], ["q\ta.jpg\t1"])
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"test/{name}: no such file, and .* is there"):
        check_query_files(tmp_path, ["test"])


def test_a_header_without_a_column_stops_before_any_row(tmp_path: Path) -> None:
    write_files(tmp_path / "evaluation/test", [query("q")], [], "query-id\tcorpus\tscore\n")
    with pytest.raises(ValueError, match=r"qrels\.tsv: no column 'corpus-id'; did you mean"):
        check_query_files(tmp_path, ["test"])
