"""What must be true of the curated tables, as Great Expectations suites; run once, by the driver.

Critical expectations are what later stages rely on; when one fails, so does the stage.
Great Expectations takes seconds to import: workers never import this module.
"""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.expectations.metadata_types import FailureSeverity

from components import schema
from components.curation import frames
from components.curation.filters import TextLimits
from components.pictures import PictureLimits

# Results carry this time: the same tables give the same files.
RUN_TIME = datetime(2000, 1, 1, tzinfo=UTC)
TIME_PATTERN = re.compile(r"\d{8}T\d{6}\.\d{6}Z")
UUID_PATTERN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
DROPPED_FIELDS = ("meta", "id", "exception_traceback")  # times, random ids, paths of this machine
CRITICAL = FailureSeverity.CRITICAL


class Suite(NamedTuple):
    """The expectations of one table."""

    table: str
    frame: pd.DataFrame
    expectations: Sequence[gxe.Expectation]


def curated_suites(curated: Path, pictures: PictureLimits, text: TextLimits, max_answer_fraction: float) -> list[Suite]:
    """The suites of all tables of a curated folder."""
    samples, images = frames.samples_frame(curated), frames.images_frame(curated)
    known = frames.pictures_by_split(images)
    return [
        files_suite(frames.files_frame(curated)),
        samples_suite(samples, pictures, text),
        images_suite(images, pictures),
        disjointness_suite(frames.split_pictures_frame(samples, images)),
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


def samples_suite(frame: pd.DataFrame, pictures: PictureLimits, text: TextLimits) -> Suite:
    """Frame: schema.SAMPLES without pictures and conversations, plus the columns of frames.samples_frame."""
    return Suite(
        "samples",
        frame,
        [
            gxe.ExpectColumnValuesToNotBeNull(column=schema.SAMPLE_ID, severity=CRITICAL),
            gxe.ExpectColumnValuesToBeUnique(column=schema.SAMPLE_ID, severity=CRITICAL),
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
            gxe.ExpectColumnValuesToBeInSet(column="later_placeholders", value_set=[0], severity=CRITICAL),
            gxe.ExpectColumnValuesToBeBetween(
                column="caption_characters",
                min_value=1,
                max_value=text.max_caption_characters,
                severity=CRITICAL,
            ),
            gxe.ExpectColumnValuesToBeInSet(
                column="has_target", value_set=[True], severity=CRITICAL, description="a row has a caption or an answer"
            ),
            gxe.ExpectColumnValuesToBeInSet(column="odd_turns", value_set=[0], severity=CRITICAL),
        ],
    )


def images_suite(frame: pd.DataFrame, pictures: PictureLimits) -> Suite:
    """Frame: schema.IMAGES without pictures, plus `key` (split and id)."""
    return Suite("images", frame, [_unique("key"), *_picture_expectations(pictures)])


def disjointness_suite(frame: pd.DataFrame) -> Suite:
    """Frame: one row per picture and split it occurs in, columns `image_sha256` and `split`."""
    description = "no picture is in two splits"
    rule = gxe.ExpectColumnValuesToBeUnique(column=schema.IMAGE_SHA256, severity=CRITICAL, description=description)
    return Suite("pictures_of_splits", frame, [rule])


def questions_suite(frame: pd.DataFrame) -> Suite:
    """Frame: schema.QUESTIONS, plus `key`, `num_answers` and `has_picture` (the picture is in the corpus)."""
    required = (schema.BENCHMARK, schema.KIND, schema.QUESTION)
    return Suite(
        "questions",
        frame,
        [
            _unique("key"),
            *(gxe.ExpectColumnValueLengthsToBeBetween(column=c, min_value=1, severity=CRITICAL) for c in required),
            gxe.ExpectColumnValuesToBeBetween(column="num_answers", min_value=1, severity=CRITICAL),
            gxe.ExpectColumnValuesToBeInSet(column="has_picture", value_set=[True], severity=CRITICAL),
        ],
    )


def answers_suite(frame: pd.DataFrame, max_fraction: float) -> Suite:
    """Class balance. Frame: `answer` and `fraction` of the short answers of each split that give it."""
    description = "no answer is so common that always giving it scores well"
    rule = gxe.ExpectColumnValuesToBeBetween(
        column="fraction", min_value=0, max_value=max_fraction, severity=CRITICAL, description=description
    )
    return Suite("answers", frame, [rule])


def captions_suite(frame: pd.DataFrame) -> Suite:
    """Frame: one row per evaluation caption, columns `image_id`, `caption_characters` and `has_picture`."""
    return Suite(
        "captions",
        frame,
        [
            gxe.ExpectColumnValuesToBeBetween(column="caption_characters", min_value=1, severity=CRITICAL),
            gxe.ExpectColumnValuesToBeInSet(column="has_picture", value_set=[True], severity=CRITICAL),
        ],
    )


def pairs_suite(frame: pd.DataFrame) -> Suite:
    """Frame: schema.COMPOSITIONALITY, plus `has_picture` and `differs` (the two captions are not the same)."""
    return Suite(
        "compositionality",
        frame,
        [
            gxe.ExpectColumnValuesToBeInSet(column="has_picture", value_set=[True], severity=CRITICAL),
            gxe.ExpectColumnValuesToBeInSet(column="differs", value_set=[True], severity=CRITICAL),
        ],
    )


def validate(suites: Sequence[Suite], folder: Path) -> list[str]:
    """Check all suites and write `result.json` and `data_docs/` into `folder`.

    Returns one readable line per failed critical expectation.
    """
    context: Any = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    context.add_data_docs_site(site_name="curated", site_config=_site(folder / "data_docs"))
    results = {suite.table: _run(context, suite) for suite in suites}
    context.build_data_docs(site_names=["curated"])
    for page in sorted((folder / "data_docs").rglob("*.html")):
        page.write_text(_without_chance(page.read_text(encoding="utf-8")), encoding="utf-8")
    text = json.dumps(_plain(results), indent=2, sort_keys=True, default=str)
    (folder / "result.json").write_text(text + "\n", encoding="utf-8")
    return critical_failures(results)


def critical_failures(results: Mapping[str, Any]) -> list[str]:
    """One readable line per failed critical expectation."""
    return [
        _describe(table, outcome)
        for table, result in results.items()
        for outcome in result["results"]
        if not outcome["success"] and outcome["expectation_config"]["severity"] == CRITICAL.value
    ]


def _picture_expectations(limits: PictureLimits) -> list[gxe.Expectation]:
    low, high = limits.min_side, limits.max_side
    return [
        *(
            gxe.ExpectColumnValuesToBeBetween(column=side, min_value=low, max_value=high, severity=CRITICAL)
            for side in (schema.WIDTH, schema.HEIGHT)
        ),
        gxe.ExpectColumnValuesToMatchRegex(column=schema.IMAGE_SHA256, regex="^[0-9a-f]{64}$", severity=CRITICAL),
    ]


def _unique(column: str) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeUnique(column=column, severity=CRITICAL)


def _run(context: Any, suite: Suite) -> dict[str, Any]:
    source = context.data_sources.add_or_update_pandas(suite.table)
    batch = source.add_dataframe_asset(suite.table).add_batch_definition_whole_dataframe("whole")
    stored = context.suites.add(gx.ExpectationSuite(name=suite.table, expectations=list(suite.expectations)))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=suite.table, data=batch, suite=stored))
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(name=suite.table, validation_definitions=[definition], result_format="SUMMARY")
    )
    run_id = RunIdentifier(run_name="curate", run_time=RUN_TIME)
    result = checkpoint.run(batch_parameters={"dataframe": suite.frame}, run_id=run_id)
    return next(iter(result.run_results.values())).to_json_dict()


def _describe(table: str, outcome: dict[str, Any]) -> str:
    config, result = outcome["expectation_config"], outcome["result"]
    rule = config.get("description") or config["type"].removeprefix("expect_").replace("_", " ")
    columns = [value for key, value in config["kwargs"].items() if key.startswith("column")]
    if "unexpected_count" in result:
        examples = ", ".join(str(value) for value in result["partial_unexpected_list"][:3])
        fact = f"{result['unexpected_count']} of {result['element_count']} rows do not, for example {examples}"
    else:
        fact = str(result.get("observed_value", "the column is missing"))
    return f"{table}.{'/'.join(map(str, columns))}: {rule}: {fact}"


def _plain(value: Any) -> Any:
    """The result without what changes from run to run."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in DROPPED_FIELDS}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _without_chance(page: str) -> str:
    """Times and the random ids of collapsible blocks become fixed ones, in order of appearance."""
    names: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        return names.setdefault(match.group(), str(uuid.UUID(int=len(names) + 1)))

    return TIME_PATTERN.sub(RUN_TIME.strftime("%Y%m%dT%H%M%S.%fZ"), UUID_PATTERN.sub(rename, page))


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.resolve())},
    }
