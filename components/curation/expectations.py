"""Expectations of the curated tables, as suites of Great Expectations.

Critical expectations are what later stages rely on; when one fails, so does the stage.
Great Expectations takes seconds to import: workers never import this module.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import great_expectations.expectations as gxe
import pandas as pd
from duckdb import DuckDBPyConnection
from great_expectations.expectations.metadata_types import FailureSeverity

from components import schema
from components.curation import frames
from components.curation.text_filters import TextLimits
from components.pictures import PictureLimits

CRITICAL = FailureSeverity.CRITICAL
LARGEST = f"Counted over all samples; these are the {frames.MOST} largest counts."
ONE_PLACEHOLDER = (
    f"{schema.IMAGE_PLACEHOLDER} stands once in the first turn of a picture's conversation"
)

expect_in_set = partial(gxe.ExpectColumnValuesToBeInSet, severity=CRITICAL)
expect_between = partial(gxe.ExpectColumnValuesToBeBetween, severity=CRITICAL)
expect_unique = partial(gxe.ExpectColumnValuesToBeUnique, severity=CRITICAL)
expect_text = partial(gxe.ExpectColumnValueLengthsToBeBetween, min_value=1, severity=CRITICAL)


class Suite(NamedTuple):
    """The expectations of one table."""

    table: str
    frame: pd.DataFrame
    expectations: Sequence[gxe.Expectation]


def curated_suites(
    database: DuckDBPyConnection,
    curated: Path,
    pictures: PictureLimits,
    text: TextLimits,
    max_answer_fraction: float,
    max_rows: int,
) -> list[Suite]:
    """Return the suites of all tables of a curated folder; at most `max_rows` samples are drawn."""
    images = frames.images_frame(curated)
    known = frames.pictures_by_split(images)
    samples = frames.samples_frame(database, curated, max_rows)
    return [
        files_suite(frames.files_frame(curated)),
        ids_suite(frames.ids_frame(database, curated)),
        samples_suite(samples, pictures, text, frames.count_samples(curated)),
        images_suite(images, pictures),
        disjointness_suite(frames.split_pictures_frame(database, curated)),
        questions_suite(frames.questions_frame(curated, known)),
        answers_suite(frames.answers_frame(curated), max_answer_fraction),
        captions_suite(frames.captions_frame(curated, known)),
        pairs_suite(frames.pairs_frame(curated, known)),
        queries_suite(frames.queries_frame(curated, known)),
    ]


def files_suite(frame: pd.DataFrame) -> Suite:
    """Expect every file to have its schema.

    Frame: one row per Parquet file, columns `file` and `has_schema`, that of components/schema.py.
    """
    description = "the file has the columns and types of components/schema.py"
    rule = expect_in_set(column="has_schema", value_set=[True], description=description)
    return Suite("files", frame, [expect_unique(column="file"), rule])


def ids_suite(frame: pd.DataFrame) -> Suite:
    """Expect ids to be unique. Frame: the ids with the most samples, `sample_id` and `samples`."""
    description = "no other sample has the same id"
    rule = expect_in_set(column="samples", value_set=[1], description=description, notes=LARGEST)
    return Suite("ids", frame, [rule])


def samples_suite(
    frame: pd.DataFrame, pictures: PictureLimits, text: TextLimits, num_rows: int
) -> Suite:
    """Expect samples to be complete, within the limits, and in order.

    Frame: schema.SAMPLES without pictures and conversations, plus the columns of
    frames.samples_frame. `num_rows`: of all samples, from which those of the frame were drawn.
    """
    has_id = gxe.ExpectColumnValuesToNotBeNull(
        column=schema.SAMPLE_ID, severity=CRITICAL, notes=coverage(frame, num_rows)
    )
    has_train = gxe.ExpectColumnDistinctValuesToContainSet(
        column=schema.SPLIT, value_set=[schema.TRAIN], severity=CRITICAL
    )
    has_placeholder = gxe.ExpectColumnPairValuesToBeEqual(
        column_A="placeholders",
        column_B="expected_placeholders",
        severity=CRITICAL,
        description=ONE_PLACEHOLDER,
    )
    longest = text.max_caption_characters
    target = "a row has a caption or an answer"

    # the order in which the report lists them
    rules = [
        has_id,
        expect_in_set(column=schema.SPLIT, value_set=[schema.TRAIN, schema.VALIDATION]),
        has_train,
        *_picture_expectations(pictures),
        has_placeholder,
        expect_in_set(column="later_placeholders", value_set=[0]),
        expect_between(column="caption_characters", min_value=1, max_value=longest),
        expect_in_set(column="has_target", value_set=[True], description=target),
        expect_in_set(column="odd_turns", value_set=[0]),
    ]
    return Suite("samples", frame, rules)


def coverage(frame: pd.DataFrame, num_rows: int) -> str:
    """Describe in a sentence how much of a table was checked, and the bound on the rest.

    By the rule of three: 0.95 ≈ 1 - e^-3.
    """
    if len(frame) >= num_rows:
        return f"All {num_rows} rows were checked."
    return (
        f"{len(frame)} of {num_rows} rows were drawn and checked: if none of them breaks a rule, "
        f"fewer than {3 * num_rows / len(frame):.0f} of all rows do, with 95 % confidence."
    )


def images_suite(frame: pd.DataFrame, pictures: PictureLimits) -> Suite:
    """Expect unique pictures. Frame: schema.IMAGES without pictures, plus `key` (split and id)."""
    return Suite("images", frame, [expect_unique(column="key"), *_picture_expectations(pictures)])


def disjointness_suite(frame: pd.DataFrame) -> Suite:
    """Expect no picture in two splits. Frame: pictures in the most, `image_sha256` and `splits`."""
    description = "no picture is in two splits"
    rule = expect_in_set(column="splits", value_set=[1], description=description, notes=LARGEST)
    return Suite("pictures_of_splits", frame, [rule])


def questions_suite(frame: pd.DataFrame) -> Suite:
    """Expect questions that can be asked and scored.

    Frame: schema.QUESTIONS, plus `key`, `num_answers` and `has_picture` (it is in the corpus).
    """
    rules = [
        expect_unique(column="key"),
        expect_text(column=schema.BENCHMARK),
        expect_text(column=schema.KIND),
        expect_text(column=schema.QUESTION),
        expect_between(column="num_answers", min_value=1),
        expect_in_set(column="has_picture", value_set=[True]),
    ]
    return Suite("questions", frame, rules)


def answers_suite(frame: pd.DataFrame, max_fraction: float) -> Suite:
    """Expect balanced answers.

    Frame: `answer`, and the `fraction` of the short answers of a split that give it.
    """
    description = "no answer is so common that always giving it scores well"
    rule = expect_between(
        column="fraction", min_value=0, max_value=max_fraction, description=description
    )
    return Suite("answers", frame, [rule])


def captions_suite(frame: pd.DataFrame) -> Suite:
    """Expect captions of known pictures. Frame: `image_id`, `caption_characters`, `has_picture`."""
    rules = [
        expect_between(column="caption_characters", min_value=1),
        expect_in_set(column="has_picture", value_set=[True]),
    ]
    return Suite("captions", frame, rules)


def pairs_suite(frame: pd.DataFrame) -> Suite:
    """Expect pairs of two captions that differ, of known pictures.

    Frame: schema.COMPOSITIONALITY, plus `has_picture` and `differs`.
    """
    rules = [
        expect_in_set(column="has_picture", value_set=[True]),
        expect_in_set(column="differs", value_set=[True]),
    ]
    return Suite("compositionality", frame, rules)


def queries_suite(frame: pd.DataFrame) -> Suite:
    """Expect queries that known pictures fit.

    Frame: schema.QUERIES without pictures, plus `key` (split and id), `num_pictures` and
    `has_pictures` (all of them are in the corpus).
    """
    rules = [
        expect_unique(column="key"),
        expect_text(column=schema.KIND),
        expect_text(column=schema.TEXT),
        expect_between(column="num_pictures", min_value=1),
        expect_in_set(column="has_pictures", value_set=[True]),
    ]
    return Suite("queries", frame, rules)


def _picture_expectations(limits: PictureLimits) -> list[gxe.Expectation]:
    sides = partial(expect_between, min_value=limits.min_side, max_value=limits.max_side)
    sha256 = gxe.ExpectColumnValuesToMatchRegex(
        column=schema.IMAGE_SHA256, regex="^[0-9a-f]{64}$", severity=CRITICAL
    )
    return [sides(column=schema.WIDTH), sides(column=schema.HEIGHT), sha256]
