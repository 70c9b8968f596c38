"""The curated tables as the small frames that the expectations look at: no pictures, one column per fact to check.

What holds between rows is counted over all of them, on the disk; what holds for each row, over rows
that are drawn.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection

from components import schema
from components.curation.database import literal_paths
from components.curation.pieces import EVALUATION_SPLITS

SHORT_ANSWER = "short_answer"  # the benchmark whose answers are checked for balance
ALL = "read_parquet($files, hive_partitioning = false)"  # all files of samples
MOST = 100  # rows of a frame about all samples, the worst first

SCHEMAS = {
    "samples": schema.SAMPLES,
    "images": schema.IMAGES,
    "questions": schema.QUESTIONS,
    "captions": schema.IMAGE_CAPTIONS,
    "compositionality": schema.COMPOSITIONALITY,
    "rejects.parquet": schema.REJECTS,
}


def files_frame(curated: Path) -> pd.DataFrame:
    """One row per Parquet file: its name below `curated`, and whether its schema is the table's."""
    names = sorted(path.relative_to(curated).as_posix() for path in curated.rglob("*.parquet"))
    has_schema = [
        pq.read_schema(curated / name).equals(SCHEMAS[name.split("/")[0]]) for name in names
    ]
    return pd.DataFrame({"file": names, "has_schema": has_schema})


def samples_frame(database: DuckDBPyConnection, curated: Path, max_rows: int) -> pd.DataFrame:
    """One row per sample, with the facts that `expectations.samples_suite` names; of more, `max_rows` drawn by hash."""
    columns = ", ".join(name for name in schema.SAMPLES.names if name != schema.IMAGE)
    query = f"SELECT {columns} FROM {ALL} ORDER BY md5(sample_id) LIMIT {max_rows}"
    table = _query(database, query, curated)
    frame = table.drop_columns([schema.CONVERSATION]).to_pandas()
    turns = [
        [turn[schema.CONTENT] for turn in row] for row in table[schema.CONVERSATION].to_pylist()
    ]
    counts = [[text.count(schema.IMAGE_PLACEHOLDER) for text in row] for row in turns]
    has_turns = pd.Series([bool(row) for row in turns], dtype=bool)
    frame["placeholders"] = [row[0] if row else 0 for row in counts]
    frame["later_placeholders"] = [sum(row[1:]) for row in counts]
    frame["expected_placeholders"] = (has_turns & frame[schema.IMAGE_SHA256].notna()).astype(int)
    frame["odd_turns"] = [len(row) % 2 for row in turns]
    frame["has_target"] = has_turns | frame[schema.CAPTION].notna()
    frame["caption_characters"] = frame[schema.CAPTION].str.len()
    return frame


def ids_frame(database: DuckDBPyConnection, curated: Path) -> pd.DataFrame:
    """The ids with the most samples, and how many these are: one, if the ids are unique."""
    query = f"SELECT sample_id, count(*) AS samples FROM {ALL} GROUP BY sample_id"
    return _query(
        database, f"{query} ORDER BY samples DESC, sample_id LIMIT {MOST}", curated
    ).to_pandas()


def split_pictures_frame(database: DuckDBPyConnection, curated: Path) -> pd.DataFrame:
    """The pictures that are in the most splits, and in how many these are; evaluation splits count by themselves."""
    database.register(
        "evaluation",
        _dataset(curated / "images").to_table(columns=[schema.IMAGE_SHA256, schema.SPLIT]),
    )
    query = f"""
    SELECT image_sha256, count(*) AS splits FROM (
        SELECT image_sha256, split FROM {ALL} WHERE image_sha256 IS NOT NULL
        UNION SELECT image_sha256, 'evaluation ' || split FROM evaluation
    ) GROUP BY image_sha256 ORDER BY splits DESC, image_sha256"""
    return _query(database, f"{query} LIMIT {MOST}", curated).to_pandas()


def count_samples(curated: Path) -> int:
    """Rows of all shards."""
    return _dataset(curated / "samples").count_rows()


def images_frame(curated: Path) -> pd.DataFrame:
    """One row per evaluation picture."""
    columns = [name for name in schema.IMAGES.names if name != schema.IMAGE]
    frame = _dataset(curated / "images").to_table(columns=columns).to_pandas()
    frame["key"] = frame[schema.SPLIT] + "/" + frame[schema.IMAGE_ID]
    return frame


def questions_frame(curated: Path, pictures: Mapping[str, set[str]]) -> pd.DataFrame:
    """One row per question; `pictures` holds the ids of the kept pictures of each split."""
    table = _dataset(curated / "questions").to_table()
    frame = table.drop_columns([schema.ANSWERS, schema.CHOICES]).to_pandas()
    frame["key"] = frame[schema.SPLIT] + "/" + frame[schema.QUESTION_ID]
    frame["num_answers"] = pc.list_value_length(table[schema.ANSWERS]).to_pandas()
    frame["has_picture"] = _has_picture(frame, pictures)
    return frame


def answers_frame(curated: Path) -> pd.DataFrame:
    """Share of each answer among the short answers of its split."""
    table = _dataset(curated / "questions").to_table(
        filter=ds.field(schema.BENCHMARK) == SHORT_ANSWER
    )
    first = pc.list_element(table[schema.ANSWERS], 0) if len(table) else pa.array([], pa.string())
    frame = pd.DataFrame(
        {schema.SPLIT: table[schema.SPLIT].to_pandas(), "answer": first.to_pandas()}
    )
    counts = (
        frame.value_counts([schema.SPLIT, "answer"], sort=False)
        .sort_index()
        .rename("count")
        .reset_index()
    )
    counts["fraction"] = counts["count"] / counts.groupby(schema.SPLIT)["count"].transform("sum")
    return counts


def captions_frame(curated: Path, pictures: Mapping[str, set[str]]) -> pd.DataFrame:
    """One row per evaluation caption."""
    frame = (
        _dataset(curated / "captions")
        .to_table()
        .to_pandas()
        .explode(schema.CAPTIONS, ignore_index=True)
    )
    frame["caption_characters"] = frame[schema.CAPTIONS].str.len()
    frame["has_picture"] = _has_picture(frame, pictures)
    return frame


def pairs_frame(curated: Path, pictures: Mapping[str, set[str]]) -> pd.DataFrame:
    """One row per pair of captions."""
    frame = _dataset(curated / "compositionality").to_table().to_pandas()
    frame["differs"] = frame[schema.CAPTION] != frame[schema.NEGATIVE_CAPTION]
    frame["has_picture"] = _has_picture(frame, pictures)
    return frame


def pictures_by_split(images: pd.DataFrame) -> dict[str, set[str]]:
    """Ids of the evaluation pictures of each split."""
    return {
        split: set(images.loc[images[schema.SPLIT] == split, schema.IMAGE_ID])
        for split in EVALUATION_SPLITS
    }


def _query(database: DuckDBPyConnection, query: str, curated: Path) -> pa.Table:
    """A query over the files of samples."""
    files = literal_paths(sorted((curated / "samples").rglob("*.parquet")))
    return database.sql(query, params={"files": files}).to_arrow_table()


def _dataset(folder: Path) -> ds.Dataset:
    return ds.dataset(sorted(str(path) for path in folder.rglob("*.parquet")), format="parquet")


def _has_picture(frame: pd.DataFrame, pictures: Mapping[str, set[str]]) -> list[bool]:
    pairs = zip(frame[schema.SPLIT], frame[schema.IMAGE_ID], strict=True)
    return [image_id in pictures[split] for split, image_id in pairs]
