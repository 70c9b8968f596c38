"""Sources of every format as pieces of work, and back as rows."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from pydantic import TypeAdapter

from components.curation.training_sources import Piece, Source, list_pieces, read_piece
from tests.components.curation.test_captions import COCO, KARPATHY, TOKEN_FILE, write_stream
from tests.components.files.bucket import bucket, upload  # noqa: F401

CAPTIONS = {"id_column": "id", "image_column": "image", "caption_column": "caption"}
SOURCES: dict[str, dict[str, Any]] = {
    "llava": {"format": "llava", "files": "llava/*.json*", "pictures": "llava"},
    "cc3m": {"format": "webdataset", "files": "cc3m/*.tar"},
    "csv": {"format": "table", "files": "tables/*.csv", "pictures": "p", **CAPTIONS},
    "tsv": {
        "format": "table",
        "files": "tables/*.tsv",
        "pictures": "p",
        **CAPTIONS,
        "id_column": None,
    },
    "jsonl": {"format": "table", "files": "tables/*.jsonl", "pictures": "p", **CAPTIONS},
    "parquet": {"format": "table", "files": "tables/*.parquet", "pictures": None, **CAPTIONS},
    "datasets": {"format": "table", "files": "tables/data-*.arrow", "pictures": None, **CAPTIONS},
    "coco": {"format": "coco", "files": "coco/captions_*.json", "pictures": "coco"},
    "karpathy": {
        "format": "karpathy",
        "files": "karpathy/dataset_coco.json",
        "pictures": "coco",
        "splits": ["test"],
    },
    "flickr30k": {
        "format": "flickr30k",
        "files": "flickr30k/*.token",
        "pictures": "flickr30k/images",
    },
}


def source(name: str) -> Source:
    return TypeAdapter(Source).validate_json(json.dumps(SOURCES[name]))


def write_all(raw: Path) -> Path:
    """A download of every format, three rows or so each."""
    for name in ("llava", "cc3m", "tables", "coco", "karpathy", "flickr30k"):
        (raw / name).mkdir(parents=True)
    rows = [{"id": str(n), "image": f"{n}.jpg", "caption": f"caption {n}"} for n in range(3)]
    (raw / "llava/a.json").write_text(json.dumps(rows))
    (raw / "llava/b.jsonl").write_text("\n".join(map(json.dumps, rows[:2])))
    (raw / "cc3m/00000.tar").write_bytes(b"")
    (raw / "cc3m/00000_stats.json").write_text("{}")
    for suffix, separator in (("csv", ","), ("tsv", "\t")):
        lines = [separator.join(row) for row in [list(rows[0]), *(row.values() for row in rows)]]
        (raw / f"tables/rows.{suffix}").write_text("\n".join(lines))
    (raw / "tables/rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = pa.Table.from_pylist(
        [{**row, "image": {"bytes": b"picture", "path": row["image"]}} for row in rows]
    )
    pq.write_table(table, raw / "tables/rows.parquet", row_group_size=2)
    write_stream(raw / "tables/data-00000-of-00001.arrow", table)
    (raw / "coco/captions_val2017.json").write_text(json.dumps(COCO))
    (raw / "karpathy/dataset_coco.json").write_text(json.dumps(KARPATHY))
    (raw / "flickr30k/results_20130124.token").write_text(TOKEN_FILE)
    return raw


def rows_of(name: str, raw: Path | str, staging: Path) -> list[Any]:
    listed = list_pieces(source(name), raw, staging, name, rows_per_task=2)  # type: ignore[arg-type]
    pieces = list(listed)
    assert all(piece.num_rows is None or piece.num_rows <= 2 for piece in pieces)
    rows = []
    for piece in pieces:
        assert Piece(*json.loads(json.dumps(piece))) == piece
        read = list(read_piece(piece, source(name))) if piece.kind != "tar" else [piece.place]
        assert piece.num_rows in (None, len(read))
        rows += read
    return rows


@pytest.mark.parametrize("name", SOURCES)
def test_a_bucket_gives_the_rows_of_a_folder(
    name: str, tmp_path: Path, bucket: fs.S3FileSystem
) -> None:
    raw = write_all(tmp_path / "raw")
    place = upload(raw, bucket, "downloads")
    local, remote = rows_of(name, raw, tmp_path / "one"), rows_of(name, place, tmp_path / "other")
    assert len(local) >= (1 if name == "cc3m" else 2)
    if name == "cc3m":
        assert [row.removeprefix(place) for row in remote] == [
            row.removeprefix(str(raw)) for row in local
        ]
    else:
        assert repr(remote) == repr(local)  # a `Rejected` is equal to itself only


def test_rows_come_in_the_order_of_files_and_lines(tmp_path: Path) -> None:
    rows = rows_of("llava", write_all(tmp_path / "raw"), tmp_path / "staging")
    assert [row.place for row in rows] == [
        "a.json:0",
        "a.json:1",
        "a.json:2",
        "b.jsonl:1",
        "b.jsonl:2",
    ]
    assert [row.value["id"] for row in rows] == ["0", "1", "2", "0", "1"]


def test_all_caption_formats_agree(tmp_path: Path) -> None:
    raw = write_all(tmp_path / "raw")
    for name in ("csv", "tsv", "jsonl", "parquet", "datasets"):
        rows = [row.value for row in rows_of(name, raw, tmp_path / name)]
        assert [row["caption"] for row in rows] == ["caption 0", "caption 1", "caption 2"]
        assert all(row["image"] in (b"picture", f"{n}.jpg") for n, row in enumerate(rows))
        assert all(("id" in row) == (name != "tsv") for row in rows)


def test_files_of_an_unknown_kind_and_broken_parquet_are_named(tmp_path: Path) -> None:
    raw = write_all(tmp_path / "raw")
    (raw / "tables/rows.xlsx").write_bytes(b"")
    (raw / "tables/bad.parquet").write_bytes(b"PAR1")
    for files, why in (
        (
            "tables/*.xlsx",
            r"rows\.xlsx: a table is a \.csv, \.tsv, \.jsonl, \.parquet or \.arrow file",
        ),
        ("tables/bad.parquet", r"bad\.parquet: is no Parquet file"),
        ("tables/*.feather", r"\*\.feather: no such file"),
    ):
        table = TypeAdapter(Source).validate_json(json.dumps(SOURCES["csv"] | {"files": files}))
        with pytest.raises(ValueError, match=why):
            list(list_pieces(table, raw, tmp_path / "staging", "csv", 2))


def test_splits_are_a_closed_set_and_one_without_pictures_is_an_error(tmp_path: Path) -> None:
    raw = write_all(tmp_path / "raw")
    with pytest.raises(ValueError, match="restvall"):
        TypeAdapter(Source).validate_json(
            json.dumps(SOURCES["karpathy"] | {"splits": ["train", "restvall"]})
        )
    empty = TypeAdapter(Source).validate_json(
        json.dumps(SOURCES["karpathy"] | {"splits": ["train", "restval"]})
    )
    with pytest.raises(
        ValueError,
        match=r"dataset_coco\.json: no picture is of the split restval; its splits: test, train",
    ):
        list(list_pieces(empty, raw, tmp_path / "staging", "karpathy", 2))
