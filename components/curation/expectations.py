"""What must be true of the curated tables, as suites of Great Expectations.

Critical expectations are what later stages rely on; when one fails, so does the stage.
Great Expectations takes seconds to import: workers never import this module.
"""

from collections.abc import Sequence
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
    """The suites of all tables of a curated folder; at most `max_rows` samples are drawn."""
    images = frames.images_frame(curated)
    known = frames.pictures_by_split(images)
    return [
        files_suite(frames.files_frame(curated)),
        ids_suite(frames.ids_frame(database, curated)),
        samples_suite(
            frames.samples_frame(database, curated, max_rows),
            pictures,
            text,
            frames.count_samples(curated),
        ),
        images_suite(images, pictures),
        disjointness_suite(frames.split_pictures_frame(database, curated)),
        questions_suite(frames.questions_frame(curated, known)),
        answers_suite(frames.answers_frame(curated), max_answer_fraction),
        captions_suite(frames.captions_frame(curated, known)),
        pairs_suite(frames.pairs_frame(curated, known)),
    ]


def files_suite(frame: pd.DataFrame) -> Suite:
    """Schemas. Frame: one row per Parquet file, columns `file`, `has_schema`: it is the one of components/schema.py."""
    description = "the file has the columns and types of components/schema.py"
    rule = gxe.ExpectColumnValuesToBeInSet(
        column="has_schema", value_set=[True], severity=CRITICAL, description=description
    )
    return Suite("files", frame, [_unique("file"), rule])


def ids_suite(frame: pd.DataFrame) -> Suite:
    """Frame: the ids with the most samples, columns `sample_id` and `samples`."""
    description = "no other sample has the same id"
    rule = gxe.ExpectColumnValuesToBeInSet(
        column="samples", value_set=[1], severity=CRITICAL, description=description, notes=LARGEST
    )
    return Suite("ids", frame, [rule])


def samples_suite(
    frame: pd.DataFrame, pictures: PictureLimits, text: TextLimits, num_rows: int
) -> Suite:
    """Frame: schema.SAMPLES without pictures and conversations, plus the columns of frames.samples_frame.

    `num_rows`: of all samples, from which those of the frame were drawn.
    """
    return Suite(
        "samples",
        frame,
        [
            gxe.ExpectColumnValuesToNotBeNull(
                column=schema.SAMPLE_ID, severity=CRITICAL, notes=coverage(frame, num_rows)
            ),
            gxe.ExpectColumnValuesToBeInSet(
                column=schema.SPLIT, value_set=[schema.TRAIN, schema.VALIDATION], severity=CRITICAL
            ),
            gxe.ExpectColumnDistinctValuesToContainSet(
                column=schema.SPLIT, value_set=[schema.TRAIN], severity=CRITICAL
            ),
            *_picture_expectations(pictures),
            gxe.ExpectColumnPairValuesToBeEqual(
                column_A="placeholders",
                column_B="expected_placeholders",
                severity=CRITICAL,
                description=f"{schema.IMAGE_PLACEHOLDER} stands once in the first turn of a picture's conversation",
            ),
            gxe.ExpectColumnValuesToBeInSet(
                column="later_placeholders", value_set=[0], severity=CRITICAL
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column="caption_characters",
                min_value=1,
                max_value=text.max_caption_characters,
                severity=CRITICAL,
            ),
            gxe.ExpectColumnValuesToBeInSet(
                column="has_target",
                value_set=[True],
                severity=CRITICAL,
                description="a row has a caption or an answer",
            ),
            gxe.ExpectColumnValuesToBeInSet(column="odd_turns", value_set=[0], severity=CRITICAL),
        ],
    )


def coverage(frame: pd.DataFrame, num_rows: int) -> str:
    """How much of a table was checked, and what that says about the rest (rule of three: 0.95 ≈ 1 - e^-3)."""
    if len(frame) >= num_rows:
        return f"All {num_rows} rows were checked."
    return (
        f"{len(frame)} of {num_rows} rows were drawn and checked: if none of them breaks a rule, fewer than "
        f"{3 * num_rows / len(frame):.0f} of all rows do, with 95 % confidence."
    )


def images_suite(frame: pd.DataFrame, pictures: PictureLimits) -> Suite:
    """Frame: schema.IMAGES without pictures, plus `key` (split and id)."""
    return Suite("images", frame, [_unique("key"), *_picture_expectations(pictures)])


def disjointness_suite(frame: pd.DataFrame) -> Suite:
    """Frame: the pictures that are in the most splits, columns `image_sha256` and `splits`."""
    description = "no picture is in two splits"
    rule = gxe.ExpectColumnValuesToBeInSet(
        column="splits", value_set=[1], severity=CRITICAL, description=description, notes=LARGEST
    )
    return Suite("pictures_of_splits", frame, [rule])


def questions_suite(frame: pd.DataFrame) -> Suite:
    """Frame: schema.QUESTIONS, plus `key`, `num_answers` and `has_picture` (the picture is in the corpus)."""
    required = (schema.BENCHMARK, schema.KIND, schema.QUESTION)
    return Suite(
        "questions",
        frame,
        [
            _unique("key"),
            *(
                gxe.ExpectColumnValueLengthsToBeBetween(column=c, min_value=1, severity=CRITICAL)
                for c in required
            ),
            gxe.ExpectColumnValuesToBeBetween(column="num_answers", min_value=1, severity=CRITICAL),
            gxe.ExpectColumnValuesToBeInSet(
                column="has_picture", value_set=[True], severity=CRITICAL
            ),
        ],
    )


def answers_suite(frame: pd.DataFrame, max_fraction: float) -> Suite:
    """Class balance. Frame: `answer` and `fraction` of the short answers of each split that give it."""
    description = "no answer is so common that always giving it scores well"
    rule = gxe.ExpectColumnValuesToBeBetween(
        column="fraction",
        min_value=0,
        max_value=max_fraction,
        severity=CRITICAL,
        description=description,
    )
    return Suite("answers", frame, [rule])


def captions_suite(frame: pd.DataFrame) -> Suite:
    """Frame: one row per evaluation caption, columns `image_id`, `caption_characters` and `has_picture`."""
    return Suite(
        "captions",
        frame,
        [
            gxe.ExpectColumnValuesToBeBetween(
                column="caption_characters", min_value=1, severity=CRITICAL
            ),
            gxe.ExpectColumnValuesToBeInSet(
                column="has_picture", value_set=[True], severity=CRITICAL
            ),
        ],
    )


def pairs_suite(frame: pd.DataFrame) -> Suite:
    """Frame: schema.COMPOSITIONALITY, plus `has_picture` and `differs` (the two captions are not the same)."""
    return Suite(
        "compositionality",
        frame,
        [
            gxe.ExpectColumnValuesToBeInSet(
                column="has_picture", value_set=[True], severity=CRITICAL
            ),
            gxe.ExpectColumnValuesToBeInSet(column="differs", value_set=[True], severity=CRITICAL),
        ],
    )


def _picture_expectations(limits: PictureLimits) -> list[gxe.Expectation]:
    low, high = limits.min_side, limits.max_side
    return [
        *(
            gxe.ExpectColumnValuesToBeBetween(
                column=side, min_value=low, max_value=high, severity=CRITICAL
            )
            for side in (schema.WIDTH, schema.HEIGHT)
        ),
        gxe.ExpectColumnValuesToMatchRegex(
            column=schema.IMAGE_SHA256, regex="^[0-9a-f]{64}$", severity=CRITICAL
        ),
    ]


def _unique(column: str) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeUnique(column=column, severity=CRITICAL)
