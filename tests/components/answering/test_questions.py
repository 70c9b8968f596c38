import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.answering.questions import REASONS, Question, ask_every_picture, read_questions

IMAGES = ["b.jpg", "a.jpg"]
GOOD = [
    {"question_id": "q", "image_id": "a.jpg", "question": "wo ist's? \U0001f600"},
    {"question_id": "q", "image_id": "b.jpg", "question": "what?"},
    {"image_id": "a.jpg", "question": "what?"},
]
ASKED = [
    Question(0, "q", "a.jpg", "wo ist's? \U0001f600"),
    Question(1, "q", "b.jpg", "what?"),
    Question(2, "2", "a.jpg", "what?"),
]


def write(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"questions{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n\n".join(map(json.dumps, rows)))
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.DictWriter(stream, ["question_id", "image_id", "question"])
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_every_format_gives_the_questions(tmp_path: Path, suffix: str) -> None:
    assert read_questions(write(tmp_path, suffix, GOOD), IMAGES) == (ASKED, [])


def test_csv_gives_the_questions_and_an_empty_id_is_an_id(tmp_path: Path) -> None:
    path = write(tmp_path, ".csv", GOOD)
    assert read_questions(path, IMAGES) == ([*ASKED[:2], ASKED[2]._replace(question_id="")], [])
    path.write_text("image_id,question\na.jpg,what?\nb.jpg\n")
    questions, rejects = read_questions(path, IMAGES)
    assert (questions, [reject.reason for reject in rejects]) == (
        [Question(0, "0", "a.jpg", "what?")],
        ["missing_value"],
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b"[1]", "not_json"),
        (b'{"image_id": "a.jpg", "question": "x", "question": "y"}', "not_json"),
        (b'{"image_id": "a.jpg", "question": "x", "n": NaN}', "not_json"),
        (b'{"image_id": "a.jpg", "question": "x"} {}', "not_json"),
        (b'{"image_id": "a.jpg"}', "missing_value"),
        (b'{"image_id": null, "question": "x"}', "missing_value"),
        (b'{"image_id": 7, "question": "x"}', "not_text"),
        (b'{"image_id": "a.jpg", "question": "x", "question_id": 7}', "not_text"),
        (b'{"image_id": "a.jpg", "question": "\\ud800"}', "invalid_unicode"),
        (b'{"image_id": "a.jpg", "question": "\xff"}', "invalid_unicode"),
        (b'{"image_id": "a.jpg", "question": " \\n"}', "empty_question"),
        (b'{"image_id": "c.jpg", "question": "x"}', "unknown_image"),
        (b'{"image_id": "a.jpg", "question": "x", "question_id": "q"}', "duplicate_question"),
    ],
)
def test_bad_lines_are_rejected_with_a_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(json.dumps(GOOD[0]).encode() + b"\n" + line + b"\n")
    questions, rejects = read_questions(path, IMAGES)
    assert (questions, [(reject.row, reject.reason) for reject in rejects]) == (
        ASKED[:1],
        [(1, reason)],
    )


def test_text_that_is_not_utf8_is_rejected_in_every_format(tmp_path: Path) -> None:
    broken = (
        pa.array([b"a.jpg", b"a.jpg"]).cast(pa.string()),
        pa.array([b"\xff", b"x"], pa.binary()).view(pa.string()),
    )
    pq.write_table(
        pa.table(dict(zip(("image_id", "question"), broken, strict=True))),
        tmp_path / "questions.parquet",
    )
    (tmp_path / "questions.csv").write_bytes(b"image_id,question\na.jpg,\xff\na.jpg,x\n")
    for name in ("questions.parquet", "questions.csv"):
        questions, rejects = read_questions(tmp_path / name, IMAGES)
        assert (
            [question.row for question in questions],
            [reject.reason for reject in rejects],
        ) == (
            [1],
            ["invalid_unicode"],
        )


def test_a_quote_that_is_left_open_costs_its_line_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "questions.csv"
    path.write_text(
        'image_id,question\na.jpg,"what?\nb.jpg,"two\nlines?"\nb.jpg,x,y\na.jpg,a\u2028b\n'
    )
    questions, rejects = read_questions(path, IMAGES)
    assert [(question.row, question.question) for question in questions] == [
        (1, "two\nlines?"),
        (3, "a\u2028b"),
    ]
    assert [(reject.row, reject.reason) for reject in rejects] == [
        (0, "not_a_record"),
        (2, "not_a_record"),
    ]
    assert "line 2" in rejects[0].detail


def test_a_column_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "questions.csv").write_text("image_id,question,question\na.jpg,x,y\n")
    pq.write_table(
        pa.table([["a.jpg"], ["x"], ["y"]], ["image_id", "question", "question"]),
        tmp_path / "q.parquet",
    )
    for name in ("questions.csv", "q.parquet"):
        with pytest.raises(
            ValueError, match=r"has 2 columns 'question'|'question' is there 2 times"
        ):
            read_questions(tmp_path / name, IMAGES)


def test_every_picture_is_asked_every_question_in_the_order_of_the_store(tmp_path: Path) -> None:
    path = write(
        tmp_path, ".jsonl", [{"question": "what?"}, {"question": ""}, {"question": "why?"}]
    )
    questions, rejects = ask_every_picture(path, IMAGES)
    assert questions == [
        Question(row, str(row), image_id, text)
        for image_id in IMAGES
        for row, text in ((0, "what?"), (2, "why?"))
    ]
    assert [(reject.row, reject.reason) for reject in rejects] == [(1, "empty_question")]


def test_files_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    for name, content, message in (
        ("questions.txt", b"", r"come as \.jsonl"),
        ("questions.csv", b"image_id,text\n", "has no column question; it has image_id, text"),
        ("questions.parquet", b"PAR1", "is no Parquet file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_questions(tmp_path / name, IMAGES)


VALUES = (
    st.none()
    | st.integers()
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(IMAGES)
    | st.lists(st.none())
)


@settings(max_examples=50)
@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from(["question_id", "image_id", "question", "x"]), VALUES)
    )
)
def test_any_rows_are_asked_or_rejected(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("wild") / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    questions, rejects = read_questions(path, IMAGES)
    assert sorted([*(q.row for q in questions), *(r.row for r in rejects)]) == list(
        range(len(rows))
    )
    assert set(Counter(reject.reason for reject in rejects)) <= set(REASONS)
    for question in questions:
        assert rows[question.row]["question"] == question.question.encode().decode()


def test_a_time_that_python_has_no_words_for_costs_its_row(tmp_path: Path) -> None:
    path = tmp_path / "questions.parquet"
    times = pa.array([1 << 62, None], pa.timestamp("ms"))
    pq.write_table(
        pa.table({"image_id": ["a", "a"], "question": ["x?", "y?"], "question_id": times}), path
    )
    asked, rejects = read_questions(path, {"a"})
    assert [question.row for question in asked] == [1]
    assert [(reject.row, reject.reason) for reject in rejects] == [(0, "not_text")]
