"""The suites fail where they must, and say what is wrong in words."""

import json
from pathlib import Path

import pandas as pd
import pytest

from components.curation import data_checks as validation
from components.curation import expectations
from components.curation.text_filters import TextLimits
from components.pictures import PictureLimits

PICTURES = PictureLimits(
    formats=("PNG",), max_pixels=10**6, max_aspect_ratio=10.0, max_side=1000, min_side=16
)
TEXT = TextLimits(min_caption_characters=3, max_caption_characters=20, max_turn_characters=40)
SAMPLE = {
    "sample_id": "a",
    "source": "captions",
    "split": "train",
    "image_sha256": "0" * 64,
    "width": 96,
    "height": 96,
    "caption": "a cat",
    "placeholders": 0,
    "later_placeholders": 0,
    "expected_placeholders": 0,
    "odd_turns": 0,
    "has_target": True,
    "caption_characters": 5,
}
TEXT_ONLY = {
    "sample_id": "t",
    "image_sha256": None,
    "width": None,
    "height": None,
    "caption_characters": None,
}


def samples(*changes: dict[str, object]) -> expectations.Suite:
    rows = [{**SAMPLE, "sample_id": str(number), **change} for number, change in enumerate(changes)]
    return expectations.samples_suite(pd.DataFrame(rows), PICTURES, TEXT, len(rows))


def test_validate_of_sound_tables_finds_no_fault_and_writes_the_same_bytes_twice(
    tmp_path: Path,
) -> None:
    contents = []
    for name in ("a", "b"):
        assert (
            validation.validate([samples({}, TEXT_ONLY, {"split": "validation"})], tmp_path / name)
            == []
        )
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert json.loads(contents[0][Path("result.json")])["samples"]["success"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "samples.split: "),
        (
            {"width": 8},
            "samples.width: column values to be between: 1 of 2 rows do not, for example 8",
        ),
        ({"image_sha256": "short"}, "samples.image_sha256: "),
        ({"expected_placeholders": 1}, "<image> stands once in the first turn"),
        ({"later_placeholders": 1}, "samples.later_placeholders: "),
        ({"caption_characters": 21}, "samples.caption_characters: "),
        ({"has_target": False}, "a row has a caption or an answer"),
        ({"odd_turns": 1}, "samples.odd_turns: "),
    ],
)
def test_validate_of_a_broken_sample_names_column_rule_and_example(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    faults = validation.validate([samples({}, change)], tmp_path)
    assert len(faults) == 1
    assert message in faults[0]


def test_validate_finds_a_picture_in_two_splits_an_id_twice_a_wrong_schema_and_a_common_answer(
    tmp_path: Path,
) -> None:
    pictures = pd.DataFrame({"image_sha256": ["x", "y"], "splits": [2, 1]})
    ids = pd.DataFrame({"sample_id": ["a", "b"], "samples": [3, 1]})
    files = pd.DataFrame({"file": ["a.parquet"], "has_schema": [False]})
    answers = pd.DataFrame({"answer": ["red", "blue"], "fraction": [0.9, 0.1]})
    suites = [
        expectations.disjointness_suite(pictures),
        expectations.ids_suite(ids),
        expectations.files_suite(files),
        expectations.answers_suite(answers, 0.5),
    ]
    assert [fault.split(":")[1].strip() for fault in validation.validate(suites, tmp_path)] == [
        "no picture is in two splits",
        "no other sample has the same id",
        "the file has the columns and types of components/schema.py",
        "no answer is so common that always giving it scores well",
    ]


def test_validate_finds_a_query_twice_without_pictures_or_with_unknown_ones(tmp_path: Path) -> None:
    sound = {"key": "test/1", "kind": "one", "text": "a dot", "num_pictures": 2}
    rows = [{**sound, "has_pictures": True}, {**sound, "num_pictures": 0, "has_pictures": False}]
    faults = validation.validate([expectations.queries_suite(pd.DataFrame(rows))], tmp_path)
    assert [fault.split(":")[0] for fault in faults] == [
        "queries.key",
        "queries.num_pictures",
        "queries.has_pictures",
    ]


def test_validate_of_a_missing_column_says_so(tmp_path: Path) -> None:
    suite = expectations.disjointness_suite(pd.DataFrame({"other": [1]}))
    (fault,) = validation.validate([suite], tmp_path)
    assert "the column is missing" in fault
    assert "Traceback" not in (tmp_path / "result.json").read_text()


def test_a_suite_of_drawn_rows_says_what_it_covers(tmp_path: Path) -> None:
    frame = pd.DataFrame([{**SAMPLE, "sample_id": str(number)} for number in range(10)])
    assert (
        validation.validate([expectations.samples_suite(frame, PICTURES, TEXT, 1000)], tmp_path)
        == []
    )
    said = (
        "10 of 1000 rows were drawn and checked: "
        "if none of them breaks a rule, fewer than 300 of all rows do"
    )
    assert (
        said
        in json.loads((tmp_path / "result.json").read_text())["samples"]["results"][0][
            "expectation_config"
        ]["notes"]
    )
    pages = [page.read_text() for page in (tmp_path / "data_docs").rglob("*.html")]
    assert any(said in page for page in pages)
    assert expectations.coverage(frame, 10) == "All 10 rows were checked."
