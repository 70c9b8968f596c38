from pathlib import Path

from components import schema
from components.curation.decisions import decide, outcomes_of, plan_output
from components.curation.deduplication import Checked, NearDuplicateParams
from components.curation.sources import CocoSource, LlavaSource, WebdatasetSource
from components.curation.tables import IMAGES, SAMPLES, decode_checked, decode_shard, encode_checked, encode_shard
from components.params import load_params
from flows.curate import CurateParams

SOURCES = {
    "instruct": LlavaSource(format="llava", files="*.json", pictures="."),
    "captions": WebdatasetSource(format="webdataset", files="*.tar"),
    "coco": CocoSource(format="coco", files="*.json", pictures="."),
}
COMMITTED = load_params("curate", CurateParams, Path(__file__).parents[3] / "params.yaml").candidates
NEAR = NearDuplicateParams(hash_size=4, max_distance=1, min_contrast=0.0)
PARAMS = COMMITTED.model_copy(update={"near_duplicates": NEAR})
DIGITS = 3 * 4 * 4 // 4


def row(source: str, name: str, picture: str | None, near_hash: int | None = None, text: str = "") -> Checked:
    hexadecimal = None if near_hash is None else f"{near_hash:0{DIGITS}x}"
    return Checked(f"{source}/{name}", source, 0, 0, 0, picture, hexadecimal, text or name, (), None, "")


def picture(split: str, name: str, sha: str) -> Checked:
    return row(f"evaluation/{split}/pictures", name, sha)._replace(sample_id=name)


def test_test_pictures_come_before_validation_pictures_before_training_rows() -> None:
    rows = [
        row("instruct", "1", "in test"),
        row("captions", "2", "in validation"),
        row("captions", "3", "in training"),
        picture("validation", "a.jpg", "in test"),
        picture("validation", "b.jpg", "in validation"),
        picture("test", "c.jpg", "in test"),
    ]
    decisions = decide(rows, SOURCES, PARAMS, seed=0, validation_fraction=0.5)
    kept = {(o.source, o.sample_id) for o in outcomes_of(decisions) if o.reason is None}
    assert kept == {
        ("captions", "captions/3"),
        ("evaluation/validation/pictures", "b.jpg"),
        ("evaluation/test/pictures", "c.jpg"),
    }
    assert decisions.kept_pictures() == {"validation": {"a.jpg": False, "b.jpg": True}, "test": {"c.jpg": True}}


def test_rows_of_one_picture_and_of_near_pictures_share_a_split() -> None:
    rows = []
    for index in range(200):
        value = index << 8 | 0b1111_0000  # eight bits apart from each other at most, the low bits say how near
        rows.append(row("instruct", f"{index}-0", f"sha {index}", value << 16))
        rows.append(row("instruct", f"{index}-1", f"sha {index}", value << 16))
    sparse = [r for r in rows if int(str(r.near_hash), 16).bit_count() % 2 == 0]  # at least two bits apart
    near = [
        row("instruct", f"{r.sample_id}-near", f"near {r.image_sha256}", int(str(r.near_hash), 16) ^ 1) for r in sparse
    ]
    decisions = decide([*sparse, *near], SOURCES, PARAMS, seed=0, validation_fraction=0.5)
    splits = decisions.split_of_sample
    assert set(splits.values()) == {"train", "validation"}
    for original, copy in zip(sparse, near, strict=True):
        twin = original.sample_id[:-1] + ("1" if original.sample_id.endswith("0") else "0")
        assert splits[original.sample_id] == splits[twin] == splits[copy.sample_id]


def test_plan_output_names_every_kept_row_once_and_empty_splits_too() -> None:
    rows = [row("instruct", str(i), f"sha {i}") for i in range(5)] + [picture("test", "c.jpg", "x")]
    decisions = decide(rows, SOURCES, PARAMS, seed=0, validation_fraction=0.0)
    shards = plan_output(decisions, rows_per_shard=2)
    assert [shard.path for shard in shards] == [
        f"{SAMPLES}/train/part-00000.parquet",
        f"{SAMPLES}/train/part-00001.parquet",
        f"{SAMPLES}/train/part-00002.parquet",
        f"{SAMPLES}/validation/part-00000.parquet",
        f"{IMAGES}/test/part-00000.parquet",
        f"{IMAGES}/validation/part-00000.parquet",
    ]
    ids = [planned.row_id for shard in shards for planned in shard.rows]
    assert ids == [*(f"instruct/{i}" for i in range(5)), "c.jpg"]
    assert shards[3].split == schema.VALIDATION


def test_rows_and_shards_survive_the_way_to_another_process() -> None:
    rows = [row("instruct", "1", None)._replace(repairs=("cmyk",)), picture("test", "c.jpg", "x")]
    assert decode_checked(encode_checked(rows)) == rows
    shards = plan_output(decide(rows, SOURCES, PARAMS, 0, 0.0), 10)
    assert [decode_shard(encode_shard(shard)) for shard in shards] == shards


def test_a_picture_has_one_caption_in_a_shard_and_may_have_several_in_coco() -> None:
    rows = [row(source, name, "same", text=name) for source in ("captions", "coco") for name in ("1", "2")]
    rows.append(row("coco", "3", "same", text="1"))
    found = outcomes_of(decide(rows, SOURCES, PARAMS, 0, 0.0))
    assert [outcome.reason for outcome in found] == [None, "duplicate_picture", None, None, "duplicate_sample"]


def test_a_caption_that_everybody_has_is_kept_a_few_times() -> None:
    captions = PARAMS.captions.model_copy(update={"max_rows_per_caption": 2})
    params = PARAMS.model_copy(update={"captions": captions})
    rows = [
        row(source, f"{n}", f"{source} {n}", text="buy now") for source in ("captions", "instruct") for n in range(3)
    ]
    found = outcomes_of(decide(rows, SOURCES, params, 0, 0.0))
    assert [outcome.reason for outcome in found] == [None, None, "repeated_caption", None, None, None]
