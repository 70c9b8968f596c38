"""Caption files in their published formats, written here; whole, broken, randomly damaged."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.curation import captions
from components.curation.reasons import Reason, Rejected
from components.curation.records import Entry

COLUMNS = {"id": "key", "image": "file", "caption": "text"}
ROWS = [
    {"key": "1", "file": "a.jpg", "text": 'two "young" guys, outside'},
    {"key": "2", "file": "b.jpg", "text": "日本 on\ntwo lines"},
]
EXPECTED = [{"id": row["key"], "image": row["file"], "caption": row["text"]} for row in ROWS]
TOKEN_FILE = (
    "1000092795.jpg#0\tTwo young guys .\n1000092795.jpg#1\tTwo young , White males .\n"
    "\nno tab here\n"
)
KARPATHY = {
    "images": [
        {
            "filepath": "val2014",
            "filename": "COCO_val2014_000000391895.jpg",
            "cocoid": 391895,
            "split": "test",
            "sentences": [
                {"raw": "A man with a red helmet", "tokens": ["a"]},
                {"raw": "A man riding"},
            ],
        },
        {
            "filename": "1000092795.jpg",
            "imgid": 7,
            "split": "train",
            "sentences": [{"raw": "Two young guys"}],
        },
        {"filename": "2.jpg", "split": "train", "sentences": None},
        {"filename": "3.jpg", "split": "train", "sentences": ["text"]},
        "no object",
    ],
    "dataset": "coco",
}
COCO = {
    "images": [{"id": 391895, "file_name": "000000391895.jpg"}, {"id": 5, "file_name": "5.jpg"}],
    "annotations": [
        {"id": 770337, "image_id": 391895, "caption": "A man with a red helmet"},
        {"id": 1, "image_id": 404, "caption": "no such picture"},
        {"id": 2, "image_id": [5], "caption": "an odd id"},
        7,
    ],
}


def values(entries: Iterator[Entry]) -> list[Any]:
    return [
        entry.value.reason if isinstance(entry.value, Rejected) else entry.value
        for entry in entries
    ]


def delimited(path: Path, rows: list[dict[str, str]], **dialect: Any) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "key", "extra", "file"], **dialect)
        writer.writeheader()
        writer.writerows({**row, "extra": ""} for row in rows)
    return str(path)


def test_csv_has_quotes_commas_and_lines_inside_fields(tmp_path: Path) -> None:
    place = delimited(tmp_path / "rows.csv", ROWS)
    assert values(captions.read_delimited(place, COLUMNS)) == EXPECTED


def test_in_tsv_a_quote_is_a_character(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_bytes(b'\xef\xbb\xbftext\tfile\tkey\na "quote left open\ta.jpg\t1\n"so\tb.jpg\t2\n')
    found = values(captions.read_delimited(str(path), COLUMNS))
    assert [row["caption"] for row in found] == ['a "quote left open', '"so']


def test_a_broken_line_of_a_table_is_one_reject(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b'key,file,text\n1,a.jpg,fine\n2,b.jpg,"bad" quote\n3,c.jpg,x,too many\n4\n'
        b"5,e.jpg,\xff\n6,f.jpg,fine\n"
    )
    found = values(captions.read_delimited(str(path), COLUMNS))
    assert found[1:3] == [Reason.BAD_RECORD] * 2
    assert found[3] == {"id": "4", "image": None, "caption": None}
    assert found[4]["caption"] == "\udcff"  # what no text may hold
    assert [found[0]["id"], found[5]["id"]] == ["1", "6"]


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows.arrow"])
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path, name: str) -> None:
    table = pa.table({"key": ["1"], "file": ["a.jpg"], "txt": ["a"]})
    path = tmp_path / name
    if name == "rows.csv":
        path.write_text("key,file,txt\n1,a.jpg,a\n")
        read = captions.read_delimited(str(path), COLUMNS)
    elif name == "rows.arrow":
        write_stream(path, table)
        read = captions.read_stream(str(path), COLUMNS)
    else:
        read = iter(())
        with pytest.raises(ValueError, match="no column 'text'; did you mean 'txt'"):
            captions.check_columns(str(path), table.column_names, COLUMNS)
        return
    with pytest.raises(
        ValueError, match=rf"{name}: no column 'text'; did you mean 'txt'\?.*'key', 'file', 'txt'"
    ):
        list(read)


def test_a_column_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("key,file,text,text,other,other\n1,a.jpg,a,b,c,d\n")
    with pytest.raises(ValueError, match=r"rows\.csv: several columns 'text'"):
        list(captions.read_delimited(str(tmp_path / "rows.csv"), COLUMNS))
    with pytest.raises(ValueError, match="several columns 'key'"):
        captions.check_columns("a.parquet", ["key", "file", "text", "key"], COLUMNS)


def test_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*map(json.dumps, ROWS), "[1]", "{", '{"key": 3}']))
    missing = {"id": 3, "image": None, "caption": None}
    assert values(captions.read_json_rows(str(path), COLUMNS)) == [
        *EXPECTED,
        Reason.BAD_RECORD,
        Reason.BAD_JSON,
        missing,
    ]


def pictures_table() -> pa.Table:
    """Pictures as Hugging Face datasets stores them, as plain bytes, and by a path."""
    pictures = [{"bytes": b"one", "path": None}, {"bytes": None, "path": "b.jpg"}, None]
    return pa.table({"key": [1, 2, 3], "file": pictures, "text": ["a", "b", None]})


def write_stream(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        for batch in table.to_batches(max_chunksize=2):
            stream.write_batch(batch)


def test_parquet_and_arrow_hold_pictures(tmp_path: Path) -> None:
    expected = [
        {"id": 1, "image": b"one", "caption": "a"},
        {"id": 2, "image": "b.jpg", "caption": "b"},
        {"id": 3, "image": None, "caption": None},
    ]
    pq.write_table(pictures_table(), tmp_path / "rows.parquet", row_group_size=2)
    place = str(tmp_path / "rows.parquet")
    groups = [
        list(captions.read_row_group(place, group, size, COLUMNS))
        for group, size in ((0, 2), (1, 1))
    ]
    assert values(iter(groups[0] + groups[1])) == expected
    assert groups[1][0].place == "rows.parquet#1:0"
    write_stream(tmp_path / "rows.arrow", pictures_table())
    assert values(captions.read_stream(str(tmp_path / "rows.arrow"), COLUMNS)) == expected


def test_damage_in_a_table_takes_what_it_touches_and_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table(
        {"key": ["1", "2"], "file": ["a.jpg", "b.jpg"], "text": ["x" * 500, "y" * 500]}
    )
    pq.write_table(table, path, row_group_size=1, compression="none", write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[data.index(b"xxxx") + 100] ^= 1
    path.write_bytes(data)
    found = [values(captions.read_row_group(str(path), group, 1, COLUMNS)) for group in (0, 1)]
    assert found == [
        [Reason.UNREADABLE_SHARD],
        [{"id": "2", "image": "b.jpg", "caption": "y" * 500}],
    ]
    write_stream(tmp_path / "rows.arrow", pictures_table())
    whole = (tmp_path / "rows.arrow").read_bytes()
    (tmp_path / "rows.arrow").write_bytes(whole[: len(whole) - 120])
    assert (
        values(captions.read_stream(str(tmp_path / "rows.arrow"), COLUMNS))[-1]
        is Reason.UNREADABLE_SHARD
    )


def test_coco_annotations(tmp_path: Path) -> None:
    path = tmp_path / "captions_val2017.json"
    path.write_text(json.dumps(COCO))
    first, *others = values(captions.read_coco(str(path)))
    assert first == {
        "id": 770337,
        "image": "000000391895.jpg",
        "caption": "A man with a red helmet",
    }
    assert others == [Reason.IMAGE_MISSING, Reason.BAD_RECORD, Reason.BAD_RECORD]
    path.write_text('{"images": []}')
    with pytest.raises(ValueError, match="no list 'annotations'"):
        list(captions.read_coco(str(path)))


def test_karpathy_splits(tmp_path: Path) -> None:
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps(KARPATHY))
    assert values(captions.read_karpathy(str(path), ["test"])) == [
        {
            "id": "391895#0",
            "image": "val2014/COCO_val2014_000000391895.jpg",
            "caption": "A man with a red helmet",
        },
        {
            "id": "391895#1",
            "image": "val2014/COCO_val2014_000000391895.jpg",
            "caption": "A man riding",
        },
        Reason.BAD_RECORD,  # no object
    ]
    assert values(captions.read_karpathy(str(path), ["train", "restval"])) == [
        {"id": "7#0", "image": "1000092795.jpg", "caption": "Two young guys"},
        Reason.BAD_RECORD,  # no captions
        {"id": "3#0", "image": "3.jpg", "caption": None},
        Reason.BAD_RECORD,
    ]


def test_flickr30k_tokens(tmp_path: Path) -> None:
    path = tmp_path / "results_20130124.token"
    path.write_text(TOKEN_FILE)
    entries = list(captions.read_flickr30k(str(path)))
    assert entries[0] == (
        "results_20130124.token:1",
        {"id": "1000092795.jpg#0", "image": "1000092795.jpg", "caption": "Two young guys ."},
    )
    assert values(iter(entries))[2] is Reason.BAD_RECORD
    path.write_bytes(b"1.jpg#0\ta dog\r2.jpg#0\ta cat\r")
    assert values(captions.read_flickr30k(str(path))) == [Reason.BAD_RECORD]


READERS = {
    "rows.csv": lambda place: captions.read_delimited(place, COLUMNS),
    "rows.tsv": lambda place: captions.read_delimited(place, COLUMNS),
    "rows.jsonl": lambda place: captions.read_json_rows(place, COLUMNS),
    "rows.parquet": lambda place: captions.read_row_group(place, 0, 3, COLUMNS),
    "rows.arrow": lambda place: captions.read_stream(place, COLUMNS),
    "coco.json": captions.read_coco,
    "karpathy.json": lambda place: captions.read_karpathy(place, ["train", "test"]),
    "results.token": captions.read_flickr30k,
}


def whole_file(name: str) -> bytes:
    """A valid file of a format."""
    if name.endswith((".csv", ".tsv")):
        return "text\tkey\tfile\na\t1\ta.jpg\n".replace(
            "\t", "\t" if name.endswith("tsv") else ","
        ).encode()
    if name == "rows.jsonl":
        return "\n".join(map(json.dumps, ROWS)).encode()
    if name == "rows.parquet":
        sink = io.BytesIO()
        pq.write_table(pictures_table(), sink)
        return sink.getvalue()
    if name == "rows.arrow":
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, pictures_table().schema) as stream:
            stream.write_table(pictures_table())
        return sink.getvalue()
    return (
        json.dumps({"coco.json": COCO, "karpathy.json": KARPATHY}.get(name, "")).encode()
        or TOKEN_FILE.encode()
    )


@pytest.mark.parametrize("name", READERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.data())
def test_no_damage_lets_anything_out_but_the_documented_errors(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    """Bytes are cut, changed or put in anywhere: rows are entries, all else is a ValueError."""
    content = whole_file(name)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(len(content) - 1, 0)))
        content = (
            content[:at]
            + data.draw(st.binary(max_size=4))
            + content[at + data.draw(st.integers(0, 6)) :]
        )
    (tmp_path / name).write_bytes(content)
    try:
        entries = list(READERS[name](str(tmp_path / name)))
    except ValueError as error:
        entries = []
        said = str(error)
        assert name in said
    for entry in entries:
        assert isinstance(entry.value, Rejected) or set(entry.value) <= {"id", "image", "caption"}
