"""Decisions in SQL against a plain loop over the rows, one rule after the other."""

# Annotations stay text: duckdb complains at exit about types that pytest holds on to.
from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from duckdb import DuckDBPyConnection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.curation.accounting import count_decided
from components.curation.candidates import CandidateParams
from components.curation.decisions import decide, kept_pictures, rows_of_tasks
from components.curation.deduplication import NearDuplicateParams
from components.curation.training_sources import CocoSource, LlavaSource, WebdatasetSource
from components.curation.written_tables import FACTS, IMAGES, PLAN, SAMPLES, plan_shards
from components.params import load_params
from flows.curate import CurateParams

SOURCES = {
    "instruct": LlavaSource(format="llava", files="*.json", pictures="."),
    "captions": WebdatasetSource(format="webdataset", files="*.tar"),
    "coco": CocoSource(format="coco", files="*.json", pictures="."),
}
COMMITTED = load_params(
    "curate", CurateParams, Path(__file__).parents[3] / "params.yaml"
).candidates
NEAR = NearDuplicateParams(hash_size=4, max_distance=1, min_contrast=0.0)
PARAMS = COMMITTED.model_copy(update={"near_duplicates": NEAR})
Fact = dict[str, Any]


def row(
    source: str, name: str, picture: str | None, near_hash: int | None = None, text: str = ""
) -> Fact:
    return dict.fromkeys(FACTS.names) | {
        "sample_id": f"{source}/{name}",
        "source": source,
        "image_sha256": picture,
        "near_hash": None if near_hash is None else f"{near_hash:0{NEAR.num_digits}x}",
        "content_sha256": text or name,
        "repairs": [],
    }


def picture(split: str, name: str, sha: str, near_hash: int | None = None) -> Fact:
    return row(f"evaluation/{split}/pictures", name, sha, near_hash) | {"sample_id": name}


def with_captions(max_rows: int) -> CandidateParams:
    return PARAMS.model_copy(
        update={"captions": PARAMS.captions.model_copy(update={"max_rows_per_caption": max_rows})}
    )


@pytest.fixture
def database() -> Iterator[DuckDBPyConnection]:
    with duckdb.connect() as database:
        yield database


def run(
    database: DuckDBPyConnection,
    folder: Path,
    rows: list[Fact],
    params: CandidateParams = PARAMS,
    fraction: float = 0.5,
) -> list[str | None]:
    """Decide about rows, given in input order; the reason of each."""
    numbered = [
        fact | {"task": 0, "number": number, "position": number} for number, fact in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(numbered, schema=FACTS), folder / "facts.parquet")
    decide(
        database, [folder / "facts.parquet"], SOURCES, params, seed=0, validation_fraction=fraction
    )
    query = "SELECT rejected.reason FROM rows LEFT JOIN rejected USING (place) ORDER BY place"
    return [reason for (reason,) in database.execute(query).fetchall()]


def splits(database: DuckDBPyConnection) -> dict[str, str]:
    return dict(database.execute("SELECT row_id, split FROM samples ORDER BY place").fetchall())


def test_test_pictures_come_before_validation_pictures_before_training_rows(
    database: DuckDBPyConnection, tmp_path: Path
) -> None:
    rows = [
        row("instruct", "1", "in test"),
        row("captions", "2", "in validation"),
        row("captions", "3", "in training"),
        picture("validation", "a.jpg", "in test"),
        picture("validation", "b.jpg", "in validation"),
        picture("test", "c.jpg", "in test"),
    ]
    leak = "leaked_from_evaluation"
    assert run(database, tmp_path, rows) == [leak, leak, None, leak, None, None]
    assert kept_pictures(database) == {
        "validation": {"a.jpg": False, "b.jpg": True},
        "test": {"c.jpg": True},
    }
    details = dict(
        database.execute(
            "SELECT sample_id, rejected.detail FROM rows JOIN rejected USING (place)"
        ).fetchall()
    )
    assert details["instruct/1"] == "same picture as evaluation/test/pictures/c.jpg"


def test_a_picture_near_any_evaluation_picture_is_a_leak(
    database: DuckDBPyConnection, tmp_path: Path
) -> None:
    rows = [
        # near a.jpg, which therefore would stand for it
        picture("validation", "b.jpg", "b", 0b011 << 8),
        picture("test", "a.jpg", "a", 0b001 << 8),
        row("instruct", "same hash", "x", 0b001 << 8),
        row("instruct", "near b only", "y", 0b111 << 8),
        row("instruct", "near neither", "z", 0b1111111 << 8),
    ]
    leak = "nearly_leaked_from_evaluation"
    assert run(database, tmp_path, rows) == [None, None, leak, leak, None]


def test_rows_of_one_picture_and_of_near_pictures_share_a_split(
    database: DuckDBPyConnection, tmp_path: Path
) -> None:
    rows = []
    for index in range(200):
        value = index << 8 | 0b1111_0000
        rows.append(row("instruct", f"{index}-0", f"sha {index}", value << 16))
        rows.append(row("instruct", f"{index}-1", f"sha {index}", value << 16))
    # at least two bits apart
    sparse = [r for r in rows if int(r["near_hash"], 16).bit_count() % 2 == 0]
    near = [
        row(
            "instruct",
            f"{r['content_sha256']}-near",
            f"near {r['image_sha256']}",
            int(r["near_hash"], 16) ^ 1,
        )
        for r in sparse
    ]
    assert set(run(database, tmp_path, [*sparse, *near])) == {None}
    found = splits(database)
    assert set(found.values()) == {"train", "validation"}
    for original, copy in zip(sparse, near, strict=True):
        name = original["sample_id"]
        twin = name[:-1] + ("1" if name.endswith("0") else "0")
        assert found[name] == found[twin] == found[copy["sample_id"]]


def test_the_split_is_the_hash_of_the_picture_or_else_of_the_id(
    database: DuckDBPyConnection, tmp_path: Path
) -> None:
    rows = [row("instruct", str(i), f"sha {i}" if i % 2 else None, text=str(i)) for i in range(300)]
    run(database, tmp_path, rows, fraction=0.3)
    for fact in rows:
        key = fact["image_sha256"] or fact["sample_id"]
        uniform = int.from_bytes(hashlib.sha256(f"0:{key}".encode()).digest()[:8], "big") / 2**64
        assert splits(database)[fact["sample_id"]] == ("validation" if uniform < 0.3 else "train")


def test_plan_names_every_kept_row_once_and_empty_splits_too(
    database: DuckDBPyConnection, tmp_path: Path
) -> None:
    rows = [row("instruct", str(i), f"sha {i}") for i in range(5)] + [picture("test", "c.jpg", "x")]
    run(database, tmp_path, rows, fraction=0.0)
    paths = list(plan_shards(database, tmp_path, rows_per_shard=2))
    assert paths == [
        f"{SAMPLES}/train/part-00000.parquet",
        f"{SAMPLES}/train/part-00001.parquet",
        f"{SAMPLES}/train/part-00002.parquet",
        f"{SAMPLES}/validation/part-00000.parquet",
        f"{IMAGES}/test/part-00000.parquet",
        f"{IMAGES}/validation/part-00000.parquet",
    ]
    plans = [pq.read_table(tmp_path / "plan" / path) for path in paths]
    assert {plan.schema for plan in plans} == {PLAN}
    planned = [(row["position"], row["row_id"]) for plan in plans for row in plan.to_pylist()]
    assert planned == [*((i, f"instruct/{i}") for i in range(5)), (5, "c.jpg")]


def test_a_picture_has_one_caption_in_a_shard_and_may_have_several_in_coco(
    database: DuckDBPyConnection, tmp_path: Path
) -> None:
    rows = [
        row(source, name, "same", text=name)
        for source in ("captions", "coco")
        for name in ("1", "2")
    ]
    rows.append(row("coco", "3", "same", text="1"))
    assert run(database, tmp_path, rows) == [
        None,
        "duplicate_picture",
        None,
        None,
        "duplicate_sample",
    ]


def test_a_caption_that_everybody_has_is_kept_a_few_times(
    database: DuckDBPyConnection, tmp_path: Path
) -> None:
    rows = [
        row(source, f"{n}", f"{source} {n}", text="buy now")
        for source in ("captions", "instruct")
        for n in range(3)
    ]
    assert run(database, tmp_path, rows, with_captions(2)) == [
        None,
        None,
        "repeated_caption",
        None,
        None,
        None,
    ]


def test_repeated_ids_are_rejected_with_the_same_content_and_renamed_with_another(
    database: DuckDBPyConnection, tmp_path: Path
) -> None:
    texts = [
        ("x", "t"),
        ("x", "t"),
        ("x", "other"),
        ("x#2", "third"),
        ("y", "fourth"),
        ("x", "fifth"),
        ("x#02", "z"),
    ]
    rows = [row("instruct", name, "p", text=text) for name, text in texts]
    rows.append(row("instruct", "x#3", "p", text="lost") | {"reason": "truncated", "detail": ""})
    assert run(database, tmp_path, rows) == [None, "duplicate_id", *[None] * 5, "truncated"]
    names = [name.removeprefix("instruct/") for name in splits(database)]
    assert names == ["x", "x#4", "x#2", "y", "x#5", "x#02"]  # ids of rejected rows are taken, too
    assert count_decided(database).repairs == {("instruct", "id_made_unique"): 2}


def test_rejected_rows_stand_in_nobodys_way(database: DuckDBPyConnection, tmp_path: Path) -> None:
    lost = row("captions", "1", "p") | {"reason": "truncated", "detail": "cut"}
    assert run(database, tmp_path, [lost, row("captions", "1", "p")]) == ["truncated", None]
    assert rows_of_tasks(database) == {0: 2}


@pytest.mark.parametrize(
    "folder", ["source=cc3m", "task=4", "reason=x", "split=mine", "c[1]", "c*", "it's"]
)
def test_the_name_of_a_folder_says_nothing_about_the_rows(
    database: DuckDBPyConnection, tmp_path: Path, folder: str
) -> None:
    (tmp_path / folder).mkdir()
    rows = [row("captions", "1", "p"), row("captions", "2", "q")]
    assert run(database, tmp_path / folder, rows) == [None, None]
    assert rows_of_tasks(database) == {0: 2}
    assert set(splits(database)) == {"captions/1", "captions/2"}


HASHES = [0, 1, 3, 7, 0b1000_0001, 0b1000_0000, 1 << 30, 3 << 30, (1 << 47) | 1]
FACT = st.builds(
    lambda source, name, number, has_hash, text, lost: (
        row(source, name, f"sha {number}", HASHES[number % len(HASHES)] if has_hash else None, text)
        | {"reason": "truncated" if lost else None}
        if number is not None
        else row(source, name, None, None, text) | {"reason": "truncated" if lost else None}
    ),
    st.sampled_from([*SOURCES, "evaluation/test/pictures", "evaluation/validation/pictures"]),
    st.sampled_from(["1", "1", "2", "1#2", "a\n", "a\n#2"]),
    st.none() | st.integers(0, 2 * len(HASHES)),
    st.booleans(),
    st.sampled_from(["t", "u", "v"]),
    st.sampled_from([False, False, False, True]),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(FACT, max_size=25))
def test_decisions_equal_a_loop_over_the_rows(tmp_path: Path, rows: list[Fact]) -> None:
    hashes = {fact["image_sha256"]: fact["near_hash"] for fact in rows}  # a picture has one hash
    rows = [fact | {"near_hash": hashes[fact["image_sha256"]]} for fact in rows]
    with duckdb.connect() as database:
        found = run(database, tmp_path, rows, with_captions(2))
        assert found == loop(rows, max_rows_per_caption=2)
        kept = [name for name, reason in zip(rows, found, strict=True) if reason is None]
        rows_kept = database.execute(
            "SELECT count(*), count(DISTINCT row_id) FROM samples"
        ).fetchone()
        # no id twice
        assert rows_kept == (len(splits(database)), sum(fact["source"] in SOURCES for fact in kept))


def near(one: Fact, other: Fact) -> bool:
    pair = (one["near_hash"], other["near_hash"])
    return (
        None not in pair and (int(pair[0], 16) ^ int(pair[1], 16)).bit_count() <= NEAR.max_distance
    )


def same(one: Fact, other: Fact, *keys: str) -> bool:
    return all(one[key] == other[key] for key in keys)


def loop(rows: list[Fact], max_rows_per_caption: int) -> list[str | None]:
    """The rules, one row after the other, each row against all others."""
    rows = [dict(fact) for fact in rows]
    order = ["evaluation/test/pictures", "evaluation/validation/pictures"]
    role = {
        id(fact): order.index(fact["source"]) if fact["source"] in order else 2 for fact in rows
    }
    evaluation = [fact for fact in rows if role[id(fact)] < 2 and fact["reason"] is None]
    for fact in sorted(rows, key=lambda fact: role[id(fact)]):
        if fact["reason"] is None and fact["image_sha256"] is not None:
            earlier = [
                other
                for other in evaluation
                if role[id(other)] < role[id(fact)] and other["reason"] is None
            ]
            if any(same(fact, other, "image_sha256") for other in earlier):
                fact["reason"] = "leaked_from_evaluation"
            elif role[id(fact)] == 2 and any(near(fact, other) for other in earlier):
                fact["reason"] = "nearly_leaked_from_evaluation"
    training = [fact for fact in rows if role[id(fact)] == 2]
    twins = find_twins([fact for fact in training if fact["reason"] is None])
    repeats_of(training, "duplicate_id", ("sample_id", "image_sha256", "content_sha256"), 1)
    repeats_of(training, "duplicate_sample", ("source", "image_sha256", "content_sha256"), 1)
    seen: list[Fact] = []
    for fact in training:
        if (
            fact["reason"] is None
            and fact["source"] == "captions"
            and fact["image_sha256"] is not None
        ):
            if any(same(fact, other, "image_sha256") for other in seen):
                fact["reason"] = "duplicate_picture"
            elif any(twins[fact["image_sha256"]] == twins[other["image_sha256"]] for other in seen):
                fact["reason"] = "near_duplicate_picture"
            seen.append(fact)
    pairs = [fact for fact in training if fact["source"] != "instruct"]
    repeats_of(pairs, "repeated_caption", ("source", "content_sha256"), max_rows_per_caption)
    return [fact["reason"] for fact in rows]


def repeats_of(rows: list[Fact], reason: str, keys: tuple[str, ...], limit: int) -> None:
    kept: list[Fact] = []
    for fact in rows:
        if fact["reason"] is None:
            if sum(same(fact, other, *keys) for other in kept) >= limit:
                fact["reason"] = reason
            else:
                kept.append(fact)


def find_twins(rows: list[Fact]) -> dict[str, str]:
    """The picture that stands for a picture: the nearest earlier one that stands for itself."""
    standing: list[Fact] = []
    twins: dict[str, str] = {}
    for fact in rows:
        sha = fact["image_sha256"]
        if sha is None or sha in twins:
            continue
        close = [other for other in standing if near(fact, other)]
        if close:
            value = int(fact["near_hash"], 16)
            nearest = min(
                close, key=lambda other: (value ^ int(other["near_hash"], 16)).bit_count()
            )
            twins[sha] = nearest["image_sha256"]
        else:
            twins[sha] = sha
            standing.append(fact)
    return twins
