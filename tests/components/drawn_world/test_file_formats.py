"""Files in the formats that real downloads come in."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from components.drawn_world import file_formats as formats


def test_llava_record_places_the_picture_in_the_first_question() -> None:
    turns = [("what?", "this"), ("where?", "there")]
    first = formats.llava_record("7", turns, "pictures/7.jpg")
    last = formats.llava_record("7", turns, "pictures/7.jpg", placeholder_last=True)
    assert [turn["value"] for turn in first["conversations"]] == [
        "<image>\nwhat?",
        "this",
        "where?",
        "there",
    ]
    assert last["conversations"][0] == {"from": "human", "value": "what?\n<image>"}
    assert [turn["from"] for turn in first["conversations"]] == ["human", "gpt", "human", "gpt"]


def test_text_only_record_has_no_picture_and_no_placeholder() -> None:
    record = formats.llava_record("t", [("what?", "this")], None)
    assert set(record) == {"id", "conversations"}
    assert "<image>" not in record["conversations"][0]["value"]


def test_phrases_stand_beside_what_the_formats_have() -> None:
    record = formats.llava_record("7", [("what?", "this")], "a.jpg", ["a red star"])
    assert record["phrases"] == ["a red star"]
    members = dict(formats.caption_members("000", b"jpeg", "a red star", ["a star"]))
    assert json.loads(members["000.json"])["phrases"] == ["a star"]


def test_tar_has_equal_bytes_every_time_and_opens_as_a_webdataset(tmp_path: Path) -> None:
    members = formats.caption_members("000", b"jpeg", "a red star")
    for name in ("a.tar", "b.tar"):
        formats.write_tar(tmp_path / name, members)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == ["000.jpg", "000.txt", "000.json"]
        assert archive.extractfile("000.txt").read() == b"a red star"


def test_coco_captions_join_by_image_id() -> None:
    coco = formats.coco_captions({"x.jpg": ["a", "b"], "y.jpg": ["c"]})
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    assert [(names[row["image_id"]], row["caption"]) for row in coco["annotations"]] == [
        ("x.jpg", "a"),
        ("x.jpg", "b"),
        ("y.jpg", "c"),
    ]
    assert len({row["id"] for row in coco["annotations"]}) == 3


def test_jpeg_keeps_flat_colours_to_within_a_few_levels() -> None:
    picture = Image.new("RGB", (32, 32), (226, 38, 42))
    back = np.asarray(Image.open(io.BytesIO(formats.jpeg_bytes(picture))), dtype=int)
    assert np.abs(back - (226, 38, 42)).max() <= 3


def test_queries_and_qrels_are_those_of_beir(tmp_path: Path) -> None:
    assert formats.beir_query("q1", "a red star", "one_object") == {
        "_id": "q1",
        "text": "a red star",
        "metadata": {"kind": "one_object"},
    }
    formats.write_qrels(tmp_path / "qrels.tsv", {"q1": ["a.jpg", "b.jpg"], "q2": ["b.jpg"]})
    lines = (tmp_path / "qrels.tsv").read_text().splitlines()
    assert [line.split("\t") for line in lines] == [
        ["query-id", "corpus-id", "score"],
        ["q1", "a.jpg", "1"],
        ["q1", "b.jpg", "1"],
        ["q2", "b.jpg", "1"],
    ]
