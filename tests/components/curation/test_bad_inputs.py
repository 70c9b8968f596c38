"""Real downloads, a row of a table each: the input, what becomes of it, and what the user reads.

The numbers are those of docs/bad-inputs.md. Pictures by themselves are in
tests/components/test_pictures.py.
"""

import io
import json
import os
import tarfile
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from components import schema
from components.curation.candidates import Candidate, check_row
from components.curation.pieces import check_no_file_twice
from components.curation.raw_rows import caption_row, instruct_row, pair_row, picture_row
from components.curation.reasons import Rejected
from components.curation.records import Entry, parse_json, read_entries
from components.curation.training_sources import LlavaSource, WebdatasetSource
from components.files.tars import read_shard
from components.params import load_params
from flows.curate import CurateParams
from tests.components.test_pictures import encoded, noise, png_of_declared_size

PARAMS = load_params("curate", CurateParams, Path(__file__).parents[3] / "params.yaml").candidates
GOOD = encoded(noise(), "JPEG")
TURNS = [{"from": "human", "value": "<image>\nwhat is it?"}, {"from": "gpt", "value": "a circle"}]


class Case(NamedTuple):
    """`outcome`: "kept", a repair, or the reason of the reject; `said`: part of its detail."""

    number: str
    what: str
    outcome: str
    content: Any
    said: str = ""


def ended(row: Candidate) -> str:
    return row[schema.REASON] or "+".join(row["repairs"]) or "kept"


def names(cases: list[Case]) -> dict[str, Any]:
    return {"argvalues": cases, "ids": [f"{case.number} {case.what}" for case in cases]}


# --- A: pictures, as the files that rows of a source refer to


def apng() -> bytes:
    buffer = io.BytesIO()
    noise().save(buffer, "PNG", save_all=True, append_images=[Image.new("RGB", (64, 48))])
    return buffer.getvalue()


def tiff_with_nan() -> bytes:
    return encoded(Image.fromarray(np.full((48, 64), np.nan, np.float32)), "TIFF")


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(), "JPEG", exif=exif)


PICTURES = [
    Case("A1", "no bytes", "empty_file", b""),
    Case("A2", "a page that says 404", "not_an_image", b"<html>404</html>"),
    Case("A3", "half a JPEG", "truncated", GOOD[: len(GOOD) // 2]),
    Case("A4", "a JPEG without its end", "truncated", GOOD[:-2]),
    Case("A5", "a header", "truncated", GOOD[: GOOD.index(b"\xff\xda")]),
    Case("A7", "garbage behind the picture", "kept", GOOD + os.urandom(1000)),
    Case(
        "A8",
        "20000 × 20000 declared",
        "too_many_pixels",
        png_of_declared_size(20_000, 20_000),
        "400000000",
    ),
    Case(
        "A9",
        "12000 × 10000 declared",
        "too_many_pixels",
        png_of_declared_size(12_000, 10_000),
        "12000",
    ),
    Case(
        "A10", "65500 × 1", "aspect_ratio", encoded(Image.new("RGB", (65_500, 1)), "JPEG"), "65500"
    ),
    Case("A11", "2 × 2", "too_small", encoded(Image.new("RGB", (2, 2)), "JPEG"), "2"),
    Case("A12", "CMYK", "cmyk", encoded(noise("CMYK"), "JPEG")),
    Case(
        "A13", "16 bit grey", "16_bit+wrong_extension", encoded(Image.new("I;16", (64, 48), 40_000))
    ),
    Case(
        "A14",
        "transparent",
        "alpha+wrong_extension",
        encoded(Image.new("RGBA", (64, 48), (9, 9, 9, 0))),
    ),
    Case("A15", "one bit", "wrong_extension", encoded(noise("1"))),
    Case("A16", "an animated PNG", "first_frame+wrong_extension", apng()),
    Case("A17", "turned by EXIF", "exif_rotated", rotated()),
    Case("A18", "floats that are no numbers", "unsupported_mode", tiff_with_nan(), "F"),
    Case("A21", "a PNG named .jpg", "wrong_extension", encoded(noise())),
    Case(
        "A22", "a format that is not allowed", "unsupported_format", encoded(noise(), "PPM"), "PPM"
    ),
]


@pytest.mark.parametrize("case", **names(PICTURES))
def test_pictures(case: Case, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(case.content)
    row = check_row(instruct_row("s", str(tmp_path), Entry("f:0", record()), PARAMS))
    assert ended(row) == case.outcome
    assert case.said in (row[schema.DETAIL] or "")


# --- B: records and references


def record(**changes: Any) -> dict[str, Any]:
    """A good row; a value of None takes the key away."""
    row = {"id": "1", "image": "a.jpg", "conversations": TURNS, **changes}
    return {key: value for key, value in row.items() if value is not None}


def talk(*texts: Any) -> list[Any]:
    return [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(texts)]


NFD = unicodedata.normalize("NFD", "é.jpg")
LATE = talk("a", "b", "<image> c", "d")
RECORDS = [
    Case(
        "B1", "a picture that is not there", "image_missing", record(image="none.jpg"), "none.jpg"
    ),
    Case("B2", "an absolute path", "path_escapes_root", record(image="/etc/passwd"), "/etc/passwd"),
    Case(
        "B3",
        "a path upwards",
        "path_escapes_root",
        record(image="../outside.jpg"),
        "../outside.jpg",
    ),
    Case("B3", "a link outwards", "path_escapes_root", record(image="link.jpg"), "link.jpg"),
    Case("B4", "a folder", "not_a_file", record(image="folder"), "folder"),
    Case("B4", "a pipe", "not_a_file", record(image="pipe.jpg"), "pipe.jpg"),
    Case("B5", "a name in another form of Unicode", "image_missing", record(image=NFD)),
    Case("B5", "a name in other case", "image_missing", record(image="A.jpg")),
    Case("B5", "a name with %20", "image_missing", record(image="a%2Ejpg")),
    Case("B6", "a GIF where .jpg is named", "other_extension", record(image="other.jpg")),
    Case("B9", "an id that is a number", "kept", record(id=7)),
    Case("B9", "no id", "id_from_place", record(id=None)),
    Case("B9", "an empty id", "id_from_place", record(id="")),
    Case("B9", "an id that is a list", "bad_record", record(id=[1]), "f:0: the id is [1]"),
    Case(
        "B9",
        "an id that is a fraction",
        "bad_record",
        record(id=1.0),
        "the id is 1.0; write it as text",
    ),
    Case("B9", "an id that is true", "bad_record", record(id=True), "the id is True"),
    Case("B9", "an id that is no Unicode text", "bad_encoding", record(id="a\ud800"), "'a\\ud800'"),
    Case(
        "B22",
        "a name that is no Unicode text",
        "bad_encoding",
        record(image="a\udcff.jpg"),
        "name of the picture",
    ),
    Case(
        "B23",
        "a video",
        "other_modality",
        record(image=None, video="a.mp4", conversations=talk("hi", "yo")),
        "'video'",
    ),
    Case("B23", "a sound beside a picture", "other_modality", record(audio=["a.wav"]), "'audio'"),
    Case("B23", "no video", "kept", record(video=None, audio="", videos=[])),
    Case(
        "B23",
        "a mark for a video",
        "other_modality",
        record(image=None, conversations=talk("<video>", "b")),
        "<video>",
    ),
    Case(
        "B24",
        "`images`",
        "bad_record",
        record(image=None, images=["a.jpg"], conversations=talk("a", "b")),
        "'images'",
    ),
    Case(
        "B24",
        "`image_path`",
        "bad_record",
        record(image=None, image_path="a.jpg", conversations=talk("a", "b")),
    ),
    Case(
        "B24",
        "the address of the picture beside it",
        "kept",
        record(image_url="https://example.org/a.jpg"),
    ),
    Case("B10", "a list of one picture", "kept", record(image=["a.jpg"])),
    Case("B10", "two pictures", "multiple_images", record(image=["a.jpg", "b.jpg"]), "2 pictures"),
    Case("B10", "an empty list", "placeholder_mismatch", record(image=[]), "no picture"),
    Case("B10", "a number for a picture", "bad_record", record(image=3), "image is a int"),
    Case("P1", "phrases", "kept", record(phrases=["a dot", "a red dot"])),
    Case("P1", "no phrases", "kept", record(phrases=[])),
    Case("P2", "phrases are one text", "bad_record", record(phrases="a dot"), "no list of texts"),
    Case("P3", "a phrase is a number", "bad_record", record(phrases=["a dot", 1]), "int"),
    Case("P4", "an empty phrase", "empty_caption", record(phrases=["a dot", " "])),
    Case(
        "P5", "a phrase with a placeholder", "placeholder_mismatch", record(phrases=["<image> x"])
    ),
    Case(
        "P6",
        "phrases of no picture",
        "bad_record",
        record(image=None, phrases=["a dot"], conversations=talk("hi", "hello")),
        "image",
    ),
    Case("P7", "phrases null", "kept", record(phrases=None)),
    Case("P8", "a phrase of control characters", "empty_caption", record(phrases=["\x00\x01"])),
    Case("B11", "text only", "kept", record(image=None, conversations=talk("hi", "hello"))),
    Case(
        "B12",
        "a picture and no mark",
        "placeholder_mismatch",
        record(conversations=talk("hi", "hello")),
        "[0, 0]",
    ),
    Case(
        "B12",
        "two marks",
        "placeholder_mismatch",
        record(conversations=talk("<image><image>a", "b")),
        "[2, 0]",
    ),
    Case(
        "B12",
        "a mark in the second question",
        "placeholder_mismatch",
        record(conversations=LATE),
    ),
    Case(
        "B12", "a mark without a picture", "placeholder_mismatch", record(image=None), "no picture"
    ),
    Case("B13", "no turns", "bad_conversation", record(conversations=[]), "no turns"),
    Case(
        "B13",
        "the answer first",
        "bad_conversation",
        record(conversations=TURNS[::-1]),
        "turn 0 is",
    ),
    Case(
        "B13",
        "two questions in a row",
        "bad_conversation",
        record(conversations=[TURNS[0]] * 2),
        "turn 1",
    ),
    Case(
        "B13",
        "a turn without text",
        "bad_conversation",
        record(conversations=[{"from": "human"}, TURNS[1]]),
        "no value",
    ),
    Case(
        "B13",
        "a question without an answer",
        "bad_conversation",
        record(conversations=TURNS[:1]),
        "no answer",
    ),
    Case(
        "B13",
        "a system turn",
        "bad_conversation",
        record(conversations=[{"from": "system", "value": "be kind"}, *TURNS]),
        "turn 0 is from 'system'",
    ),
    Case("B13", "conversations that are text", "bad_conversation", record(conversations="hi")),
    Case(
        "B14",
        "an empty answer",
        "empty_text",
        record(conversations=talk("<image>a", " \n")),
        "turn 1",
    ),
    Case("B20", "unknown extra fields", "kept", record(model="", extra={"a": 1})),
    Case(
        "B20",
        "a renamed field",
        "bad_conversation",
        {"id": "1", "image": "a.jpg", "conversation": TURNS},
        "no turns",
    ),
    Case("B20", "no object", "bad_record", ["1"], "list where an object belongs"),
]


@pytest.mark.parametrize("case", **names(RECORDS))
def test_records(case: Case, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    for name in ("root/a.jpg", "root/é.jpg", "outside.jpg"):
        (tmp_path / name).write_bytes(GOOD)
    (root / "other.gif").write_bytes(encoded(noise(), "GIF"))
    (root / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    os.mkfifo(root / "pipe.jpg")
    row = check_row(instruct_row("s", str(root), Entry("f:0", case.content), PARAMS))
    assert ended(row) == case.outcome
    assert case.said in (row[schema.DETAIL] or "")
    assert str(tmp_path) not in (row[schema.DETAIL] or "")


def test_names_of_evaluation_pictures_that_are_no_text_are_rejects(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).write_bytes(GOOD)
    row = check_row(picture_row("evaluation/test/pictures", str(tmp_path), name, PARAMS))
    assert (ended(row), row[schema.SAMPLE_ID]) == ("bad_encoding", "caf\\xe9.jpg")


def test_rows_of_a_file_whose_name_is_no_text_are_rejects(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(GOOD)
    row = check_row(
        instruct_row(
            "s", str(tmp_path), Entry(f"{os.fsdecode(bytes([255]))}:1", record(id=None)), PARAMS
        )
    )
    assert (ended(row), row[schema.SAMPLE_ID]) == ("bad_encoding", "s/\\xff:1")


# Lines of a .jsonl file; whole files have their own tests (test_records.py).
LINES = [
    Case("B16", "a broken line", "bad_json", b'{"id": ', "Expecting value"),
    Case("B17", "a byte order mark", "kept", b"\xef\xbb\xbf" + json.dumps(record()).encode()),
    Case("B18", "NaN", "bad_json", b'{"id": NaN}', "NaN is not JSON"),
    Case(
        "B18", "a key that is there twice", "bad_json", b'{"id": 1, "id": 2}', "'id' is there twice"
    ),
    Case("B19", "100 000 brackets", "bad_json", b"[" * 100_000, "nested more than 100 levels"),
    Case("B19", "an integer of 5000 digits", "bad_json", b"[" + b"9" * 5000 + b"]", "digit"),
    Case("C13", "a line that is not UTF-8", "bad_encoding", b'{"id": "\xff"}', "not UTF-8"),
]


@pytest.mark.parametrize("case", **names(LINES))
def test_lines(case: Case) -> None:
    try:
        parse_json(case.content)
        found, said = "kept", ""
    except Rejected as error:
        found, said = error.reason.value, error.detail
    assert found == case.outcome
    assert case.said in said


FILES = [
    Case(
        "B15", "an array that is cut", "is not JSON from byte 25 on", b'[{"id": "1"}, {"id": "2",'
    ),
    Case("B15", "no array", "no JSON array of records", b'{"id": "1"}'),
    Case("B21", "an empty file", "is empty", b""),
    Case("B17", "an array that is not UTF-8", "is not UTF-8", b'[{"id": "\xff"}]'),
]


@pytest.mark.parametrize("case", **names(FILES))
def test_files_that_are_broken_as_a_whole(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(case.content)
    with pytest.raises(ValueError, match=case.outcome):
        list(read_entries(str(path)))


def test_no_rows_are_no_fault(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(" [ ] ")
    assert list(read_entries(str(tmp_path / "rows.json"))) == []


# --- C: shards

Member = tuple[str, bytes] | tarfile.TarInfo
PAIR: list[Member] = [("a.jpg", GOOD), ("a.txt", b"a circle")]
OTHER: list[Member] = [("b.jpg", GOOD), ("b.txt", b"another circle")]


def shard(*members: Member) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


TWO = shard(*PAIR, *OTHER)
BOUNDARY = 512 * 2 + (len(GOOD) + 511) // 512 * 512 + 512  # the end of the first pair
SHARDS = [
    Case("C1", "no bytes", "unreadable_shard", b"", "empty"),
    Case("C2", "an archive of nothing", "empty_shard", shard(), "an archive of nothing"),
    Case(
        "C3",
        "cut inside a member",
        "kept,missing_caption,unreadable_shard",
        TWO[: BOUNDARY + 700],
        "was cut",
    ),
    Case("C4", "cut between members", "kept,unreadable_shard", TWO[:BOUNDARY], "no end mark"),
    Case("C5", "no end mark", "kept,kept,unreadable_shard", TWO[: 2 * BOUNDARY]),
    Case("C6", "noise", "unreadable_shard", bytes(range(256)) * 8, "no tar"),
    Case(
        "C7",
        "a key upwards",
        "unsafe_key",
        shard(("../../evil.jpg", GOOD), ("../../evil.txt", b"a circle")),
    ),
    Case(
        "C7",
        "an absolute key",
        "unsafe_key",
        shard(("/etc/x.jpg", GOOD), ("/etc/x.txt", b"a circle")),
    ),
    Case(
        "C8",
        "a link for a picture",
        "not_a_file",
        shard(special("a.jpg", tarfile.SYMTYPE), PAIR[1]),
    ),
    Case("C8", "a device", "not_a_file", shard(special("a.jpg", tarfile.CHRTYPE), PAIR[1])),
    Case("C9", "a member twice", "duplicate_member,kept", shard(*PAIR, PAIR[0], *OTHER)),
    Case(
        "C10",
        "a key that comes again",
        "kept,kept,non_contiguous_key",
        shard(*PAIR, ("b.jpg", GOOD), ("b.txt", b"two"), PAIR[0]),
    ),
    Case("C11", "upper case", "kept", shard(("a.JPG", GOOD), ("a.TXT", b"a circle"))),
    Case(
        "C11",
        "two dots",
        "dotted_name,image_missing",
        shard(("a.v2.jpg", GOOD), ("a.txt", b"a circle")),
        "a.v2.jpg",
    ),
    Case(
        "C11",
        "numbers behind a dot",
        "dotted_name,dotted_name",
        shard(("i.1.jpg", GOOD), ("i.1.txt", b"one"), ("i.2.jpg", GOOD), ("i.2.txt", b"two")),
        "'i'",
    ),
    Case(
        "C11", "a folder with a dot", "kept", shard(("a.b/0.jpg", GOOD), ("a.b/0.txt", b"a circle"))
    ),
    Case("C12", "two pictures", "multiple_images", shard(*PAIR, ("a.png", GOOD)), "jpg, png"),
    Case("C17", "archives behind one another", "kept,kept", shard(*PAIR) + shard(*OTHER)),
    Case(
        "C17",
        "garbage behind the archive",
        "kept,unreadable_shard",
        shard(*PAIR) + GOOD,
        "no archive",
    ),
    Case(
        "C11",
        "files of macOS",
        "kept",
        shard(("._a.jpg", b"\0\5\x16\7"), *PAIR, (".DS_Store", b"")),
    ),
    Case("C12", "no caption", "missing_caption", shard(PAIR[0])),
    Case("C12", "no picture", "image_missing", shard(PAIR[1])),
    Case(
        "C13", "a caption that is not UTF-8", "bad_encoding", shard(PAIR[0], ("a.txt", b"\xff\xfe"))
    ),
    Case("C14", "a pickle", "kept", shard(*PAIR, ("a.pkl", b"cos\nsystem\n(S'exit 1'\ntR."))),
    Case(
        "C16",
        "a member that is too large",
        "file_too_large",
        shard(("a.jpg", b"\0" * 5000), PAIR[1]),
        "5000 bytes",
    ),
]


@pytest.mark.parametrize("case", **names(SHARDS))
def test_shards(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "00000.tar"
    path.write_bytes(case.content)
    limit = 4000 if case.number == "C16" else PARAMS.max_file_bytes
    rows = [check_row(caption_row("s", sample, PARAMS)) for sample in read_shard(str(path), limit)]
    assert ",".join(map(ended, rows)) == case.outcome
    assert any(case.said in (row[schema.DETAIL] or "") for row in rows)
    assert not list(tmp_path.glob("**/*.jpg"))


@pytest.mark.parametrize(
    ("image", "outcome"),
    [
        (GOOD, "kept"),
        (b"\0" * 5000, "file_too_large"),
        (b"", "image_missing"),
        (None, "image_missing"),
        ("a.jpg", "bad_record"),
    ],
)
def test_c16_pictures_inside_tables_have_the_same_limits(
    image: bytes | str | None, outcome: str
) -> None:
    entry = Entry("rows.parquet#0:0", {"id": "1", "image": image, "caption": "a circle"})
    params = PARAMS.model_copy(update={"max_file_bytes": len(GOOD) if image == GOOD else 4000})
    assert ended(check_row(pair_row("s", None, entry, params))) == outcome


def test_c6_a_compressed_shard_is_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as archive:
        for name, data in PAIR:  # type: ignore[misc]
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (sample,) = read_shard(str(tmp_path / "a.tar"), 100_000)
    assert ended(check_row(caption_row("s", sample, PARAMS))) == "kept"


def test_c15_a_shard_that_two_sources_name_is_refused(tmp_path: Path) -> None:
    for name in ("00000.tar", "00001.tar"):
        (tmp_path / name).write_bytes(TWO)
    (tmp_path / "rows.json").write_text("[]")
    one = WebdatasetSource(format="webdataset", files="*.tar")
    other = WebdatasetSource(format="webdataset", files="00001.*")
    rows = LlavaSource(format="llava", files="rows.json", pictures=".")
    check_no_file_twice(tmp_path, {"one": one, "rows": rows})
    with pytest.raises(ValueError, match=r"00001\.tar is read by one and by other; name it once"):
        check_no_file_twice(tmp_path, {"one": one, "rows": rows, "other": other})


# --- D: text

TEXTS = [
    Case("D1", "nothing", "empty_caption", ""),
    Case("D1", "white space", "empty_caption", " \t\n "),
    Case("D2", "100 000 characters", "text_too_long", "a" * 100_000, "100000 characters"),
    Case("D4", "NUL and controls", "control_characters", "a\0b\x1b[31m circle"),
    Case("D4", "bidirectional overrides", "control_characters", "a \u202ecircle"),
    Case("D4", "zero width", "control_characters", "a\u200b circle\ufeff"),
    Case("D5", "the mark of a picture", "placeholder_mismatch", "a <image> circle"),
    Case("D5", "the end of text", "kept", "a circle</s> [INST] USER: hi"),
    Case("D6", "a script", "kept", "<script>alert(1)</script>"),
    Case("D7", "placeholders of CC3M", "kept", "<PERSON> waves"),
    Case("D9", "a formula", "kept", "=cmd|' /C calc'!A0"),
    Case("D10", "right to left", "kept", "دائرة حمراء"),
    Case("D10", "Chinese, emoji, combining marks", "kept", "红色圆圈 👩‍👩‍👧 e\u0301"),
]


@pytest.mark.parametrize("case", **names(TEXTS))
def test_texts(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "00000.tar"
    path.write_bytes(shard(PAIR[0], ("a.txt", case.content.encode())))
    (sample,) = read_shard(str(path), 10**7)
    row = check_row(caption_row("s", sample, PARAMS))
    assert ended(row) == case.outcome
    assert case.said in (row[schema.DETAIL] or "")
    if case.outcome == "kept":
        assert row[schema.CAPTION] == case.content


def test_d3_a_lone_surrogate_is_rejected_and_can_be_written_down() -> None:
    row = check_row(
        instruct_row(
            "s", ".", Entry("f:0", record(image=None, conversations=talk("\ud83d", "b"))), PARAMS
        )
    )
    assert ended(row) == "bad_encoding"
    assert row[schema.DETAIL].encode()
