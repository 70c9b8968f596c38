"""Frames of the curated tables for the expectations: no pictures, one column per fact to check.

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
    "queries": schema.QUERIES,
    "rejects.parquet": schema.REJECTS,
}


def files_frame(curated: Path) -> pd.DataFrame:
    """Return a row per Parquet file: its name, and whether its schema is the table's."""
    names = sorted(path.relative_to(curated).as_posix() for path in curated.rglob("*.parquet"))
    has_schema = []
    for name in names:
        wanted = SCHEMAS[name.split("/")[0]]
        has_schema.append(pq.read_schema(curated / name).equals(wanted))
    return pd.DataFrame({"file": names, "has_schema": has_schema})


def samples_frame(database: DuckDBPyConnection, curated: Path, max_rows: int) -> pd.DataFrame:
    """Return a row per sample with the facts of `expectations.samples_suite`; `max_rows` at most.

    Where there are more, some are drawn by the hash of their id.
    """
    columns = ", ".join(name for name in schema.SAMPLES.names if name != schema.IMAGE)
    query = f"SELECT {columns} FROM {ALL} ORDER BY md5(sample_id) LIMIT {max_rows}"
    table = _query(database, query, curated)
    frame = table.drop_columns([schema.CONVERSATION]).to_pandas()

    # facts about the turns
    conversations = table[schema.CONVERSATION].to_pylist()
    first, later, odd_turns = [], [], []
    for turns in conversations:
        counts = [turn[schema.CONTENT].count(schema.IMAGE_PLACEHOLDER) for turn in turns]
        first.append(sum(counts[:1]))
        later.append(sum(counts[1:]))
        odd_turns.append(len(turns) % 2)
    frame["placeholders"], frame["later_placeholders"] = first, later

    # facts about the turns together with the picture or the caption
    has_turns = pd.Series(list(map(bool, conversations)), dtype=bool)
    frame["expected_placeholders"] = (has_turns & frame[schema.IMAGE_SHA256].notna()).astype(int)
    frame["odd_turns"] = odd_turns
    frame["has_target"] = has_turns | frame[schema.CAPTION].notna()
    frame["caption_characters"] = frame[schema.CAPTION].str.len()
    return frame


def ids_frame(database: DuckDBPyConnection, curated: Path) -> pd.DataFrame:
    """Return the ids with the most samples, and how many these are: one, if ids are unique."""
    query = f"SELECT sample_id, count(*) AS samples FROM {ALL} GROUP BY sample_id"
    worst_first = f"ORDER BY samples DESC, sample_id LIMIT {MOST}"
    return _query(database, f"{query} {worst_first}", curated).to_pandas()


def split_pictures_frame(database: DuckDBPyConnection, curated: Path) -> pd.DataFrame:
    """Return the pictures in the most splits, and their number; evaluation splits count apart."""
    images = _dataset(curated / "images")
    database.register("evaluation", images.to_table(columns=[schema.IMAGE_SHA256, schema.SPLIT]))
    query = f"""
    SELECT image_sha256, count(*) AS splits FROM (
        SELECT image_sha256, split FROM {ALL} WHERE image_sha256 IS NOT NULL
        UNION SELECT image_sha256, 'evaluation ' || split FROM evaluation
    ) GROUP BY image_sha256 ORDER BY splits DESC, image_sha256"""
    return _query(database, f"{query} LIMIT {MOST}", curated).to_pandas()


def count_samples(curated: Path) -> int:
    """Count the rows of all shards."""
    return _dataset(curated / "samples").count_rows()


def images_frame(curated: Path) -> pd.DataFrame:
    """Return a row per evaluation picture."""
    columns = [name for name in schema.IMAGES.names if name != schema.IMAGE]
    frame = _dataset(curated / "images").to_table(columns=columns).to_pandas()
    frame["key"] = frame[schema.SPLIT] + "/" + frame[schema.IMAGE_ID]
    return frame


def questions_frame(curated: Path, pictures: Mapping[str, set[str]]) -> pd.DataFrame:
    """Return a row per question; `pictures` holds the ids of the kept pictures of each split."""
    table = _dataset(curated / "questions").to_table()
    frame = table.drop_columns([schema.ANSWERS, schema.CHOICES]).to_pandas()
    frame["key"] = frame[schema.SPLIT] + "/" + frame[schema.QUESTION_ID]
    frame["num_answers"] = pc.list_value_length(table[schema.ANSWERS]).to_pandas()
    frame["has_picture"] = _has_picture(frame, pictures)
    return frame


def answers_frame(curated: Path) -> pd.DataFrame:
    """Return the share of each answer among the short answers of its split."""
    is_short = ds.field(schema.BENCHMARK) == SHORT_ANSWER
    table = _dataset(curated / "questions").to_table(filter=is_short)
    first = pc.list_element(table[schema.ANSWERS], 0) if len(table) else pa.array([], pa.string())
    splits = table[schema.SPLIT].to_pandas()
    frame = pd.DataFrame({schema.SPLIT: splits, "answer": first.to_pandas()})

    # Shares are of the answers of one split.
    counts = frame.value_counts([schema.SPLIT, "answer"], sort=False).sort_index()
    counts = counts.rename("count").reset_index()
    counts["fraction"] = counts["count"] / counts.groupby(schema.SPLIT)["count"].transform("sum")
    return counts


def captions_frame(curated: Path, pictures: Mapping[str, set[str]]) -> pd.DataFrame:
    """Return a row per evaluation caption."""
    frame = _dataset(curated / "captions").to_table().to_pandas()
    frame = frame.explode(schema.CAPTIONS, ignore_index=True)
    frame["caption_characters"] = frame[schema.CAPTIONS].str.len()
    frame["has_picture"] = _has_picture(frame, pictures)
    return frame


def pairs_frame(curated: Path, pictures: Mapping[str, set[str]]) -> pd.DataFrame:
    """Return a row per pair of captions."""
    frame = _dataset(curated / "compositionality").to_table().to_pandas()
    frame["differs"] = frame[schema.CAPTION] != frame[schema.NEGATIVE_CAPTION]
    frame["has_picture"] = _has_picture(frame, pictures)
    return frame


def queries_frame(curated: Path, pictures: Mapping[str, set[str]]) -> pd.DataFrame:
    """Return a row per search query."""
    frame = _dataset(curated / "queries").to_table().to_pandas()
    frame["key"] = frame[schema.SPLIT] + "/" + frame[schema.QUERY_ID]
    frame["num_pictures"] = frame[schema.IMAGE_IDS].str.len()

    # A picture of another split is none that a search can find.
    known = zip(frame[schema.SPLIT], frame.pop(schema.IMAGE_IDS), strict=True)
    frame["has_pictures"] = [pictures[split].issuperset(image_ids) for split, image_ids in known]
    return frame


def pictures_by_split(images: pd.DataFrame) -> dict[str, set[str]]:
    """Return the ids of the evaluation pictures of each split."""
    found = {}
    for split in EVALUATION_SPLITS:
        found[split] = set(images.loc[images[schema.SPLIT] == split, schema.IMAGE_ID])
    return found


def _query(database: DuckDBPyConnection, query: str, curated: Path) -> pa.Table:
    """Run a query over the files of samples."""
    files = literal_paths(sorted((curated / "samples").rglob("*.parquet")))
    return database.sql(query, params={"files": files}).to_arrow_table()


def _dataset(folder: Path) -> ds.Dataset:
    return ds.dataset(sorted(map(str, folder.rglob("*.parquet"))), format="parquet")


def _has_picture(frame: pd.DataFrame, pictures: Mapping[str, set[str]]) -> list[bool]:
    pairs = zip(frame[schema.SPLIT], frame[schema.IMAGE_ID], strict=True)
    return [image_id in pictures[split] for split, image_id in pairs]
