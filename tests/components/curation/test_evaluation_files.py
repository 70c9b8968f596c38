import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.curation.evaluation_files import (
    TABLES,
    caption_rows,
    check_files,
    compositionality_rows,
    question_rows,
)
from components.curation.text_filters import TextLimits

LIMITS = TextLimits(min_caption_characters=3, max_caption_characters=100, max_turn_characters=100)
PICTURES = {"a.jpg": True, "b.jpg": True, "lost.jpg": False}
QUESTION = {
    "question_id": 7,
    "image": "pictures/a.jpg",
    "benchmark": "multiple_choice",
    "kind": "colour",
    "question": "what? A. red B. blue",
    "answers": ["B"],
    "choices": ["red", "blue"],
    "group": 3,
}


def read_questions(
    tmp_path: Path, *changes: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[str | None]]:
    path = tmp_path / "questions.jsonl"
    lines = [
        json.dumps({**QUESTION, "question_id": number, **change})
        for number, change in enumerate(changes)
    ]
    path.write_text("\n".join(lines))
    rows, outcomes = question_rows(path, "evaluation/test/questions", "test", PICTURES, LIMITS)
    return rows, [outcome.reason for outcome in outcomes]


def test_question_rows_keep_a_question_as_it_is_with_ids_as_text(tmp_path: Path) -> None:
    rows, reasons = read_questions(tmp_path, {})
    assert reasons == [None]
    assert rows == [{**{k: v for k, v in QUESTION.items() if k != "image"}, **CHANGED}]


CHANGED = {"question_id": "0", "image_id": "a.jpg", "split": "test", "group": "3"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": "pictures/none.jpg"}, "image_missing"),
        ({"image": "pictures/lost.jpg"}, "picture_rejected"),
        ({"image": None}, "bad_record"),
        ({"answers": []}, "bad_record"),
        ({"answers": "B"}, "bad_record"),
        ({"answers": [" "]}, "empty_text"),
        ({"question": ""}, "empty_text"),
        ({"question": "x" * 101}, "text_too_long"),
        ({"question": "\ud83d"}, "bad_encoding"),
        ({"question_id": 0}, "duplicate_id"),
    ],
)
def test_question_rows_reject_what_cannot_be_asked(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    rows, reasons = read_questions(tmp_path, {}, change)
    assert (len(rows), reasons) == (1, [None, reason])


def test_question_rows_reject_a_missing_field_and_a_row_that_is_no_object(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question_id": 1}\n[1]\n{"question_id": \n')
    rows, outcomes = question_rows(path, "s", "test", PICTURES, LIMITS)
    assert [(o.sample_id, o.reason) for o in outcomes] == [
        ("1", "bad_record"),
        ("questions.jsonl:2", "bad_record"),
        ("questions.jsonl:3", "bad_json"),
    ]
    assert rows == []


def test_caption_rows_gather_the_captions_of_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    images = [{"id": 1, "file_name": "pictures/b.jpg"}, {"id": 2, "file_name": "a.jpg"}]
    texts = [(1, "one"), (2, "two"), (1, "three\x00"), (9, "nobody's"), (2, " ")]
    annotations = [
        {"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(texts)
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    rows, outcomes = caption_rows(path, "s", "test", PICTURES, LIMITS)
    assert rows == [
        {"image_id": "a.jpg", "split": "test", "captions": ["two"]},
        {"image_id": "b.jpg", "split": "test", "captions": ["one", "three"]},
    ]
    assert [o.reason for o in outcomes] == [None, None, None, "image_missing", "empty_text"]
    assert outcomes[2].repairs == ("control_characters",)


def test_ids_of_pictures_agree_as_text_and_what_does_not_is_said(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": "2", "file_name": "b.jpg"}, {"id": 3}]
    images += [{"id": 4, "file_name": "a.jpg"}, {"id": "4", "file_name": "b.jpg"}]
    annotations = [
        {"id": str(i), "image_id": image, "caption": "c"}
        for i, image in enumerate(("1", 2, 3, 4, 1.0, 9))
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    rows, outcomes = caption_rows(path, "s", "test", PICTURES, LIMITS)
    assert [row["image_id"] for row in rows] == ["a.jpg", "b.jpg"]
    assert [(o.reason, o.detail) for o in outcomes[2:]] == [
        ("bad_record", "the picture with the id 3 has no file_name in `images`"),
        ("bad_record", "`images` has several pictures with the id 4"),
        ("bad_record", "image_id is 1.0, not a number or text"),
        ("image_missing", "`images` has no picture with the id 9"),
    ]


def test_a_benchmark_that_nobody_can_score_is_a_reject_before_training(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows = [{**QUESTION, "question_id": name, "benchmark": name} for name in ("existence", "pope")]
    path.write_text("\n".join(map(json.dumps, rows)))
    kept, outcomes = question_rows(path, "s", "test", PICTURES, LIMITS)
    assert [row["benchmark"] for row in kept] == ["existence"]
    assert [outcome.reason for outcome in outcomes] == [None, "bad_record"]
    assert outcomes[1].detail.startswith("the benchmark 'pope' is none of short_answer, ")


def test_ids_that_are_no_text_and_names_that_are_no_unicode_are_rejects(tmp_path: Path) -> None:
    changes = [{"question_id": value} for value in (1.5, True, None, "a\\ud800", ["x"])]
    path = tmp_path / "questions.jsonl"
    path.write_text(
        "\n".join(json.dumps({**QUESTION, **change}).replace("\\\\", "\\") for change in changes)
    )
    _, outcomes = question_rows(path, "s", "test", PICTURES, LIMITS)
    assert [o.reason for o in outcomes] == ["bad_record"] * 3 + ["bad_encoding", "bad_record"]
    path = tmp_path / "pairs.json"
    path.write_text(
        '{"\\ud800": {"\\udcff": {"filename": "\\ud800", "caption": "a", "negative_caption": "b"}}}'
    )
    _, outcomes = compositionality_rows(path, "s", "test", PICTURES, LIMITS)
    assert [(o.sample_id, o.reason) for o in outcomes] == [("\\ud800/\\udcff", "image_missing")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("questions.jsonl", None, r"test/questions\.jsonl: no such file"),
        ("captions.json", "{", r"captions\.json: is not JSON"),
        ("compositionality.json", '{"a": {}, "a": {}}', "'a' is there twice"),
        ("compositionality.json", '{"a": [{}, {}]}', r"nality\.json: the subset 'a' is a list"),
        ("compositionality.json", '{"0": {"filename": "a.jpg"}}', r"nality\.json: '0' is a row"),
        ("questions.jsonl", "\x1f\x8b", r"questions\.jsonl: is packed with gzip"),
    ],
)
def test_evaluation_files_are_looked_at_before_any_row(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    folder = tmp_path / "evaluation/test"
    folder.mkdir(parents=True)
    for file, whole in WHOLE.items():
        (folder / file).write_text(json.dumps(whole))
    check_files(tmp_path, ["test"])
    (folder / name).unlink() if content is None else (folder / name).write_text(
        content, encoding="latin-1"
    )
    with pytest.raises(ValueError, match=message):
        check_files(tmp_path, ["test"])


def test_compositionality_rows_read_sugar_crepe(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    pair = {"filename": "a.jpg", "caption": "yes", "negative_caption": "no"}
    path.write_text(
        json.dumps({"swap_object": {"0": pair, "1": {**pair, "filename": "lost.jpg"}, "2": 7}})
    )
    rows, outcomes = compositionality_rows(path, "s", "test", PICTURES, LIMITS)
    assert rows == [
        {
            "image_id": "a.jpg",
            "split": "test",
            "subset": "swap_object",
            "caption": "yes",
            "negative_caption": "no",
        }
    ]
    assert [(o.sample_id, o.reason) for o in outcomes] == [
        ("swap_object/0", None),
        ("swap_object/1", "picture_rejected"),
        ("swap_object/2", "bad_record"),
    ]
    path.write_text(json.dumps({"\ud83d": {"0": pair}, "swap": {"0": pair}}))
    rows, outcomes = compositionality_rows(path, "s", "test", PICTURES, LIMITS)
    assert [row["subset"] for row in rows] == ["swap"]
    assert [outcome.reason for outcome in outcomes] == ["bad_encoding", None]


WHOLE = {
    "questions.jsonl": QUESTION,
    "captions.json": {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "a circle"}],
    },
    "compositionality.json": {
        "swap": {"0": {"filename": "a.jpg", "caption": "a", "negative_caption": "b"}}
    },
}
LEAF = (
    st.none()
    | st.integers()
    | st.text(max_size=3)
    | st.lists(st.integers(), max_size=2)
    | st.just({})
)


def with_noise(value: object, draw: st.DataObject) -> object:
    """The same value with parts replaced by anything."""
    if draw.draw(st.integers(0, 5)) == 0:
        return draw.draw(LEAF)
    if isinstance(value, dict):
        return {
            key: with_noise(item, draw)
            for key, item in value.items()
            if draw.draw(st.integers(0, 9))
        }
    if isinstance(value, list):
        return [with_noise(item, draw) for item in value]
    return value


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table[0])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.data())
def test_odd_values_end_as_rejects_or_as_an_error_that_names_the_file(
    tmp_path: Path, table: tuple, data: st.DataObject
) -> None:
    name, _, _, read = table
    text = json.dumps(with_noise(WHOLE[name], data))
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(text)))
        text = (
            text[:at] + data.draw(st.text(max_size=2)) + text[at + data.draw(st.integers(0, 3)) :]
        )
    (tmp_path / name).write_text(text, errors="surrogatepass")
    try:
        rows, outcomes = read(tmp_path / name, "source", "test", {"a.jpg": True}, LIMITS)
    except ValueError as error:
        message = str(error)
        assert name in message
    else:
        assert len(rows) <= len(outcomes)
