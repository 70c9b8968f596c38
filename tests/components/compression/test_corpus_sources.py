"""Listing and reading corpora: folders and Parquet as people have them, oddities included."""

import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from components.compression.corpus import corpus_identity, num_listed, plan_shards
from components.compression.corpus_sources import list_corpus, read_pictures
from components.files.storage import FileState
from components.store.rejects import UnreadablePictureError
from tests.components.files.bucket import bucket, upload  # noqa: F401

SUFFIXES = (".jpg", ".png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "my pictures"
    for name in (
        "b.jpg",
        "a.PNG",
        "sub/é 1.jpg",
        "notes.txt",
        "README",
        ".hidden.jpg",
        ".cache/x.jpg",
        "sub/z.jpg",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def read(
    path: Path | str, max_bytes: int = 1000, allowed_roots: tuple[str, ...] = ()
) -> dict[str, bytes | str]:
    """All pictures of a corpus, each as its bytes or the reason why not."""
    corpus = list_corpus(str(path), SUFFIXES, allowed_roots)
    found: dict[str, bytes | str] = {}
    for shard in plan_shards(corpus, 2):
        for picture in read_pictures(corpus.kind, corpus.root, shard, max_bytes, allowed_roots):
            try:
                found[picture.image_id] = picture.load()
            except UnreadablePictureError as error:
                found[picture.image_id] = error.reason
    return found


def test_folder_ids_are_sorted_relative_paths(folder: Path) -> None:
    corpus = list_corpus(str(folder), SUFFIXES)
    assert corpus.entries["image_id"].to_pylist() == ["a.PNG", "b.jpg", "sub/z.jpg", "sub/é 1.jpg"]
    assert corpus.skipped == {".txt": 1, "hidden": 1, "hidden folder": 1, "no suffix": 1}
    assert read(folder)["sub/é 1.jpg"] == "sub/é 1.jpg".encode()


def test_folder_copy_has_the_same_identity_and_a_changed_one_has_not(
    folder: Path, tmp_path: Path
) -> None:
    first = corpus_identity(list_corpus(str(folder), SUFFIXES))
    moved = folder.rename(tmp_path / "elsewhere")
    assert corpus_identity(list_corpus(str(moved), SUFFIXES)) == first
    (moved / "b.jpg").write_bytes(b"longer than it was")
    assert corpus_identity(list_corpus(str(moved), SUFFIXES)) != first


def test_folder_odd_files_are_rejects(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (folder / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "inside.jpg").symlink_to(folder / "b.jpg")
    (folder / "broken.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop").symlink_to(folder)
    (folder / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.jpg")).write_bytes(b"x")
    (folder / "big.jpg").write_bytes(bytes(1001))
    corpus = list_corpus(str(folder), SUFFIXES)
    assert [reject[:2] for reject in corpus.rejects] == [
        ("\\xff.jpg", "bad_id"),
        ("loop.jpg", "image_missing"),
        ("out.jpg", "path_escapes_root"),
    ]
    assert corpus.skipped["linked folder"] == 1
    found = read(folder)
    assert found["inside.jpg"] == b"b.jpg"
    assert (found["broken.jpg"], found["pipe.jpg"]) == ("image_missing", "not_a_file")
    assert found["big.jpg"] == "too_many_bytes"


def test_folder_of_links_is_read_when_what_they_lead_into_is_allowed(tmp_path: Path) -> None:
    """Lay out a data set as the cache of Hugging Face does, with a linked folder beside it."""
    for name in ("blobs/0a", "blobs/0b", "shelf/c.jpg", "shelf/deep/d.jpg", "secret/e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    snapshot = tmp_path / "snapshots" / "1f"
    snapshot.mkdir(parents=True)
    (snapshot / "a.jpg").symlink_to("../../blobs/0a")
    (snapshot / "b.jpg").symlink_to("../../blobs/0b")
    (snapshot / "shelf").symlink_to("../../shelf")
    (snapshot / "secret").symlink_to("../../secret")
    (snapshot / "shelf" / "round").symlink_to(tmp_path / "shelf")
    allowed = (str(tmp_path / "blobs"), str(tmp_path / "shelf"))
    assert read(snapshot, allowed_roots=allowed) == {
        "a.jpg": b"blobs/0a",
        "b.jpg": b"blobs/0b",
        "shelf/c.jpg": b"shelf/c.jpg",
        "shelf/deep/d.jpg": b"shelf/deep/d.jpg",
    }
    corpus = list_corpus(str(snapshot), SUFFIXES, allowed)
    assert [reject[:2] for reject in corpus.rejects] == [("secret", "path_escapes_root")]
    assert corpus.skipped == {"linked folder": 1}
    refused = list_corpus(str(snapshot), SUFFIXES)
    assert [reject[:2] for reject in refused.rejects] == [
        (name, "path_escapes_root") for name in ("a.jpg", "b.jpg", "secret", "shelf")
    ]
    assert num_listed(refused) == 4


def test_identity_of_links_is_that_of_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "links").mkdir()
    (tmp_path / "blobs/0a").write_bytes(b"a picture")
    os.utime(tmp_path / "blobs/0a", (1, 1))
    (tmp_path / "links/a.jpg").symlink_to("../blobs/0a")
    allowed = (str(tmp_path / "blobs"),)
    first = list_corpus(str(tmp_path / "links"), SUFFIXES, allowed)
    assert first.files == [FileState("a.jpg", 9, str(10**9))]
    (tmp_path / "blobs/0a").write_bytes(b"another picture")
    assert corpus_identity(
        list_corpus(str(tmp_path / "links"), SUFFIXES, allowed)
    ) != corpus_identity(first)


def test_a_link_that_changes_behind_the_listing_is_looked_at_again(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/a.jpg").write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(b"secret")
    corpus = list_corpus(str(tmp_path / "root"), SUFFIXES)
    (tmp_path / "root/a.jpg").unlink()
    (tmp_path / "root/a.jpg").symlink_to(tmp_path / "secret")
    (shard,) = plan_shards(corpus, 2)
    (picture,) = read_pictures(corpus.kind, corpus.root, shard, 1000)
    with pytest.raises(UnreadablePictureError) as caught:
        picture.load()
    assert caught.value.reason == "path_escapes_root"


def test_shards_are_cut_by_sorted_id(folder: Path) -> None:
    shards = list(plan_shards(list_corpus(str(folder), SUFFIXES), 3))
    assert [shard.image_ids for shard in shards] == [
        ["a.PNG", "b.jpg", "sub/z.jpg"],
        ["sub/é 1.jpg"],
    ]
    assert [shard.number for shard in shards] == [0, 1]


def write_table(path: Path, image_ids: list, images: list, kind: pa.DataType | None = None) -> None:
    table = pa.table(
        {
            "image_id": image_ids,
            "image": pa.array(images, kind or pa.binary()),
            "split": ["test"] * len(images),
        }
    )
    pq.write_table(table, path, row_group_size=2)


def test_parquet_rows_are_found_wherever_they_are(tmp_path: Path) -> None:
    ids = [f"p{number:02d}" for number in (7, 3, 9, 1, 5, 0, 8, 2, 6, 4)]
    write_table(
        tmp_path / "part-00000.parquet", ids[:7], [image_id.encode() for image_id in ids[:7]]
    )
    write_table(
        tmp_path / "part-00001.parquet", ids[7:], [image_id.encode() for image_id in ids[7:]]
    )
    assert list_corpus(str(tmp_path), SUFFIXES).entries["image_id"].to_pylist() == sorted(ids)
    assert read(tmp_path) == {image_id: image_id.encode() for image_id in ids}
    assert len(read(tmp_path / "part-00001.parquet")) == 3


def test_parquet_bad_and_repeated_ids_are_rejects_and_the_first_counts(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", ["x", None, "", "y", "x"], [b"1", b"2", b"3", None, b"5"])
    corpus = list_corpus(str(tmp_path), SUFFIXES)
    reasons = [reject[:2] for reject in corpus.rejects]
    assert reasons == [("a.parquet#1", "bad_id"), ("a.parquet#2", "bad_id"), ("x", "duplicate_id")]
    assert read(tmp_path) == {"x": b"1", "y": "image_missing"}
    assert num_listed(corpus) == 5


def test_parquet_of_hugging_face_datasets_and_integer_ids(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": b"one", "path": "1.png"}, None, {"bytes": None, "path": "3.png"}]
    write_table(tmp_path / "a.parquet", [1, 2, 3], images, kind)
    assert read(tmp_path) == {"1": b"one", "2": "image_missing", "3": "image_missing"}


def test_parquet_of_other_columns_is_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "image": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(
        ValueError, match=r"a\.parquet: has no column image_id; its columns: \['id', 'image'\]"
    ):
        list_corpus(str(tmp_path), SUFFIXES)
    pq.write_table(pa.table({"image_id": [1], "image": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="column image has type string"):
        list_corpus(str(tmp_path), SUFFIXES)
    twice = pa.table([["1"], ["2"], [b"x"]], ["image_id", "image_id", "image"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has 2 columns 'image_id'; keep one"):
        list_corpus(str(tmp_path), SUFFIXES)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"a\.parquet: cannot be read as Parquet"):
        list_corpus(str(tmp_path), SUFFIXES)


def test_nothing_to_compress_is_an_error(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        list_corpus(str(tmp_path / "nowhere"), SUFFIXES)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.txt").write_text("x")
    with pytest.raises(
        ValueError, match=r"no pictures \(\.jpg, \.png\) and none of .*; it holds \{'\.txt': 1\}"
    ):
        list_corpus(str(tmp_path / "empty"), SUFFIXES)
    with pytest.raises(ValueError, match="neither a folder nor one of"):
        list_corpus(str(folder / "b.jpg"), SUFFIXES)
    write_table(folder / "a.parquet", ["x"], [b"1"])
    with pytest.raises(ValueError, match="holds parquet and folder"):
        list_corpus(str(folder), SUFFIXES)


def write_tar(path: Path, *members: tuple[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_a_tar_is_a_shard_and_a_sample_is_a_picture(tmp_path: Path) -> None:
    write_tar(tmp_path / "00001.tar", ("b.jpg", b"b"), ("b.txt", b"text"), ("a.png", b"a"))
    write_tar(
        tmp_path / "00000.tar",
        ("x/c.jpg", b"c"),
        ("d.txt", b"alone"),
        ("e.jpg", b"1"),
        ("e.png", b"2"),
    )
    corpus = list_corpus(str(tmp_path), SUFFIXES)
    assert num_listed(corpus) is None
    assert [(shard.files, shard.size) for shard in plan_shards(corpus, 1)] == [
        ([name], (tmp_path / name).stat().st_size) for name in ("00000.tar", "00001.tar")
    ]
    assert read(tmp_path) == {
        "00000/x/c": b"c",
        "00000/d": "image_missing",
        "00000/e": "multiple_images",
        "00001/b": b"b",
        "00001/a": b"a",
    }
    assert read(tmp_path / "00001.tar") == {"00001/b": b"b", "00001/a": b"a"}
    assert read(tmp_path / "*1.tar") == read(tmp_path / "00001.tar")
    assert read(tmp_path / "00000.tar", 0)["00000/x/c"] == "too_many_bytes"


def test_a_cut_tar_keeps_what_came_before_and_says_so(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", ("b.jpg", b"b"), ("c.jpg", b"c" * 2000))
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:2000])
    found = read(tmp_path)
    assert found["a/b"] == b"b"
    assert found["a.tar"] == "unreadable_shard"


def test_an_empty_file_is_no_tar_and_some_work_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    assert read(tmp_path) == {"a.tar": "unreadable_shard"}
    (shard,) = plan_shards(list_corpus(str(tmp_path), SUFFIXES), 1)
    assert shard.size == 1


def test_ids_of_tars_cannot_be_equal(tmp_path: Path) -> None:
    for name in ("a.tar", "a.tar.gz"):
        write_tar(tmp_path / name, ("b.jpg", b"b"))
    with pytest.raises(ValueError, match="two tars have one name but for the suffix"):
        list_corpus(str(tmp_path), SUFFIXES)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "list.csv",
            'image_id,image\n007,a.jpg\n2,"sub/b, c.jpg"\n3,none.jpg\n4,\n,a.jpg\n2,z.jpg\n',
        ),
        (
            "list.tsv",
            "image\timage_id\na.jpg\t007\nsub/b, c.jpg\t2\nnone.jpg\t3\n\t4\na.jpg\t\nz.jpg\t2\n",
        ),
        (
            "list.jsonl",
            '{"image": "a.jpg", "image_id": "007"}\n{"image": "sub/b, c.jpg", "image_id": "2"}\n'
            '{"image": "none.jpg", "image_id": "3"}\n{"image": null, "image_id": "4"}\n'
            '{"image": "a.jpg", "image_id": ""}\n{"image": "z.jpg", "image_id": "2"}\n',
        ),
    ],
)
def test_a_list_of_places_is_a_corpus(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "sub/b, c.jpg").write_bytes(b"bc")
    (tmp_path / name).write_text(text)
    assert read(tmp_path / name) == {"007": b"a", "2": b"bc", "3": "image_missing"}
    corpus = list_corpus(str(tmp_path / name), SUFFIXES)
    reasons = [reject[:2] for reject in corpus.rejects]
    line = 5 if name.endswith("jsonl") else 6  # the header is one
    assert reasons == [("2", "duplicate_id"), ("4", "image_missing"), (f"{name}:{line}", "bad_id")]
    assert num_listed(corpus) == 6


def test_ids_and_places_of_lists_are_the_text_that_stands_there(tmp_path: Path) -> None:
    ids = [
        "2023-05-01",
        "1e3",
        "0x10",
        "true",
        "18446744073709551616",
        "18446744073709551617",
        "007",
        " a ",
        "NULL",
    ]
    for name, separator in (("list.csv", ","), ("list.tsv", "\t")):
        rows = [
            f"{image_id}{separator}{image_id}{separator}{number}"
            for number, image_id in enumerate(ids)
        ]
        (tmp_path / name).write_text(
            "\n".join([f"image_id{separator}image{separator}other", *rows])
        )
        entries = list_corpus(str(tmp_path / name), SUFFIXES).entries
        assert entries["image_id"].to_pylist() == entries["file"].to_pylist() == sorted(ids)
    rows = [
        {"image": "a.jpg", "image_id": image_id, "n": [number, "mixed"][number % 2]}
        for number, image_id in enumerate(ids)
    ]
    rows += [
        {"image": "a.jpg", "image_id": 2**64 + 2},
        {"image": "a.jpg", "image_id": -1, "n": {"nested": []}},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = list_corpus(str(tmp_path / "list.jsonl"), SUFFIXES)
    assert found.entries["image_id"].to_pylist() == sorted([*ids, str(2**64 + 2), "-1"])
    assert not found.rejects


def test_lines_of_lists_that_are_no_pictures_are_rejects_with_their_number(tmp_path: Path) -> None:
    lines = [
        *(
            '{"image": "a", "image_id": 1.0}',
            '{"image": "a", "image_id": true}',
            '{"image": "a", "image_id": "\\ud800"}',
        ),
        *(
            '{"image": "\\udcff", "image_id": "4"}',
            '{"image": 7, "image_id": "5"}',
            "[1]",
            '{"image": "a"',
            "",
        ),
        *(
            '{"image": "a", "image": "b", "image_id": "9"}',
            '{"image": "a", "image_id": "1"}',
            '{"image": "b", "image_id": 1}',
        ),
        *('{"image": "a"}', "[" * 5000),
    ]
    (tmp_path / "list.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff")
    corpus = list_corpus(str(tmp_path / "list.jsonl"), SUFFIXES)
    assert corpus.entries.to_pylist() == [{"image_id": "1", "file": "a", "row": 10}]
    assert {reject.image_id: reject.reason for reject in corpus.rejects} == {
        **{f"list.jsonl:{line}": "bad_id" for line in (1, 2, 3, 12)},
        **{
            "4": "bad_encoding",
            "5": "bad_record",
            "1": "duplicate_id",
            "list.jsonl:6": "bad_record",
        },
        **{f"list.jsonl:{line}": "bad_json" for line in (7, 9, 13)},
        "list.jsonl:14": "bad_encoding",
    }
    assert num_listed(corpus) == 13  # of 14 lines one is blank
    details = {reject.image_id: reject.detail for reject in corpus.rejects}
    assert details["list.jsonl:1"] == "list.jsonl:1: the id is 1.0; write it as text"


@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_a_quote_in_a_list_takes_no_other_row_along(tmp_path: Path, suffix: str) -> None:
    separator = {"tsv": "\t", "csv": ","}[suffix]
    rows = [f"{name}.jpg{separator}{name}" for name in "abcdef"]
    rows[1] = f'"{rows[1]}'
    rows[4] = f'e.jpg{separator}e"'
    place = tmp_path / f"list.{suffix}"
    place.write_text("\n".join([f"image{separator}image_id", *rows, ""]))
    corpus = list_corpus(str(place), SUFFIXES)
    if suffix == "tsv":
        assert corpus.entries["file"].to_pylist() == [
            "a.jpg",
            '"b.jpg',
            "c.jpg",
            "d.jpg",
            "e.jpg",
            "f.jpg",
        ]
    else:
        assert corpus.entries["image_id"].to_pylist() == ["a", "c", "d", 'e"', "f"]
        assert [reject[:2] for reject in corpus.rejects] == [("list.csv:3", "bad_record")]
    assert num_listed(corpus) == 6


def test_without_ids_the_place_is_the_id(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "list.csv").write_text(f"image\n{tmp_path}/a.jpg\n")
    assert read(tmp_path / "list.csv") == {f"{tmp_path}/a.jpg": b"a"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.csv", "url,id\nx,1\n", r"has no column image; its columns: \['url', 'id'\]"),
        (
            "list.jsonl",
            "{broken",
            r"has no column image; its columns: \[\]; list\.jsonl:1: Expecting property name",
        ),
        ("list.csv", "", r"has no column image; its columns: \[\]"),
        ("list.csv", "image,image\na,b\n", "the column 'image' is there 2 times; rename one"),
        (
            "list.csv",
            '"image\na.jpg\n',
            "the header cannot be read: line 1: a quote is opened and never closed",
        ),
        (
            "list.csv",
            "image\ra.jpg\rb.jpg",
            "the header cannot be read: lines end with a carriage return alone",
        ),
    ],
)
def test_a_list_of_something_else_is_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}: {message}"):
        list_corpus(str(tmp_path / name), SUFFIXES)


def test_a_bucket_holds_every_kind_of_corpus(tmp_path: Path, bucket: fs.S3FileSystem) -> None:
    root = tmp_path / "root"
    for folder in ("pictures/sub", "tars", "tables"):
        (root / folder).mkdir(parents=True)
    (root / "pictures/sub/a b.jpg").write_bytes(b"ab")
    (root / "pictures/notes.txt").write_bytes(b"")
    write_tar(root / "tars/0.tar", ("a.jpg", b"a"))
    write_table(root / "tables/t.parquet", ["x"], [b"1"])
    (root / "list.csv").write_text("image\ns3://downloads/corpus/pictures/sub/a b.jpg\n")
    place = upload(root, bucket, "corpus")
    for kind in ("pictures", "tars", "tables"):
        assert read(f"{place}/{kind}") == read(root / kind) != {}
        assert corpus_identity(list_corpus(f"{place}/{kind}", SUFFIXES)) == corpus_identity(
            list_corpus(str(root / kind), SUFFIXES)
        )
    assert read(root / "list.csv") == {"s3://downloads/corpus/pictures/sub/a b.jpg": b"ab"}
    assert read(f"{place}/list.csv") == read(root / "list.csv")
    with pytest.raises(ValueError, match="holds no pictures"):
        list_corpus(f"{place}/nowhere", SUFFIXES)


@pytest.mark.parametrize("inner", [pa.string(), pa.list_(pa.uint8()), pa.int64()])
def test_parquet_whose_struct_holds_no_bytes_is_refused_with_its_type(
    tmp_path: Path, inner: pa.DataType
) -> None:
    write_table(tmp_path / "a.parquet", ["x"], [None], pa.struct([("bytes", inner)]))
    with pytest.raises(
        ValueError, match=r"a\.parquet: column image has type struct<bytes: .* instead of binary"
    ):
        list_corpus(str(tmp_path), SUFFIXES)


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([1.0, float("nan")]),
        pa.array([True, False]),
        pa.array([[1], [2]]),
        pa.array([b"ab", b"\xff\xff"], pa.binary(2)),
        pa.array([1, 2], pa.timestamp("s")),
    ],
)
def test_parquet_whose_ids_are_no_text_and_no_numbers_is_refused_with_their_type(
    tmp_path: Path, ids: pa.Array
) -> None:
    pq.write_table(pa.table({"image_id": ids, "image": [b"1", b"2"]}), tmp_path / "a.parquet")
    with pytest.raises(
        ValueError, match=r"a\.parquet: column image_id has type .*; write the ids as text"
    ):
        list_corpus(str(tmp_path), SUFFIXES)


def test_wild_cards_in_the_name_of_a_folder_that_is_there_are_its_name(tmp_path: Path) -> None:
    (tmp_path / "what?").mkdir()
    (tmp_path / "what?" / "a.jpg").write_bytes(b"1")
    assert read(tmp_path / "what?") == {"a.jpg": b"1"}


def test_files_beside_those_that_are_read_are_counted(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.tar", "sub/b.tar", "c.tar.zst", "x.arrow", "notes.txt", ".hidden"):
        (tmp_path / name).write_bytes(b"")
    corpus = list_corpus(str(tmp_path), SUFFIXES)
    assert [file.name for file in corpus.files] == ["a.tar"]
    assert corpus.skipped == {".arrow": 1, ".tar": 1, ".txt": 1, ".zst": 1, "hidden": 1}
