"""The reader of lines, and every reader on top of it against drawn bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from components.answering.questions import ask_every_picture, read_questions
from components.compression.corpus_lists import list_pictures
from components.curation import captions
from components.curation.reasons import Rejected
from components.curation.records import read_entries
from components.files import lines
from components.files.lines import read_lines
from components.search.batches import read_queries
from components.search.filters import matching_rows
from tests.components.search.test_filters import TABLE

BOM = b"\xef\xbb\xbf"


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(BOM + "a\u2028b\x85c\x0bd\re\r\n\n f \n".encode() + b"\xff")
    assert [tuple(line) for line in read_lines(str(path))] == [
        (1, "a\u2028b\x85c\x0bd\re".encode()),
        (2, b""),
        (3, b" f "),
        (4, b"\xff"),
    ]


def test_a_line_without_end_is_one_fault_and_not_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 8)
    path = tmp_path / "lines.txt"
    path.write_bytes(b"12345678\n123456789\nafter\n123456789")
    found = [line.content for line in read_lines(str(path))]
    assert [getattr(content, "kind", content) for content in found] == [
        b"12345678",
        "too_long",
        b"after",
        "too_long",
    ]


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\x1f\x8b\x08", "gzip"),
        (b"BZh91AY&SY", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"PK\x03\x04", "zip"),
        ("id".encode("utf-16"), "UTF-16"),
        ("image_id".encode("utf-16-le"), "UTF-16"),
        ("image_id".encode("utf-16-be"), "UTF-16"),
    ],
)
def test_packed_files_and_other_encodings_are_refused_by_name(
    tmp_path: Path, start: bytes, said: str
) -> None:
    for name, read in READERS.items():
        path = tmp_path / name
        path.write_bytes(start + b"x" * 100)
        with pytest.raises(ValueError, match=rf"{name}.* is .*{said}"):
            read(path)


COLUMNS = {"id": "image_id", "image": "image", "caption": "question"}


def listed(path: Path) -> tuple[int, int]:
    """Pictures and rejects of a list."""
    corpus = list_pictures(str(path.parent), [str(path)])
    return corpus.entries.num_rows, len(corpus.rejects)


def entries(read: Callable[[str], Any]) -> Callable[[Path], tuple[int, int]]:
    """Rows and rejects of a reader of curation."""

    def count(path: Path) -> tuple[int, int]:
        found = [isinstance(entry.value, Rejected) for entry in read(str(path))]
        return len(found) - sum(found), sum(found)

    return count


def asked(path: Path) -> tuple[int, int]:
    """Questions and rejects; of one picture, asking about every picture gives no more."""
    for questions, rejects in (read_questions(path, ["a"]), ask_every_picture(path, ["a"])):
        assert len(
            {question.row for question in questions} | {reject.row for reject in rejects}
        ) == len(questions) + len(rejects)
    return len(questions), len(rejects)


def query_count(path: Path) -> tuple[int, int]:
    """A file of queries is read as a whole, or refused with a line."""
    return len(read_queries(path)), 0


def facts(path: Path) -> tuple[int, int]:
    """A table of facts joined to pictures, or refused with a line."""
    return len(matching_rows(TABLE, path, "true")), 0


READERS: dict[str, Callable[[Path], tuple[int, int]]] = {
    "list.csv": listed,
    "list.tsv": listed,
    "list.jsonl": listed,
    "captions.csv": entries(lambda place: captions.read_delimited(place, COLUMNS)),
    "captions.tsv": entries(lambda place: captions.read_delimited(place, COLUMNS)),
    "captions.jsonl": entries(lambda place: captions.read_json_rows(place, COLUMNS)),
    "rows.jsonl": entries(read_entries),
    "rows.json": entries(read_entries),
    "results.token": entries(captions.read_flickr30k),
    "coco.json": entries(captions.read_coco),
    "karpathy.json": entries(lambda place: captions.read_karpathy(place, ["train"])),
    "questions.csv": asked,
    "questions.jsonl": asked,
    "queries.jsonl": query_count,
    "queries.txt": query_count,
    "facts.csv": facts,
}
LINES = [
    *(
        b"image,image_id,question",
        b"image\timage_id\tquestion",
        b"",
        b"a,b,c",
        b"a\tb\tc",
        b'"a,b,c',
        b'a,"b",c"',
        b'"',
    ),
    *(
        b'{"image": "a", "image_id": "b", "question": "c"}',
        b'{"text": "a"}',
        b'{"image_id": 1e999}',
        b"[",
        b"{",
        b"]",
    ),
    *(
        b'{"image": ["\\ud800"], "image_id": true}',
        b'{"images": [], "annotations": [{"image_id": 1}]}',
        b"\xff\xfe",
    ),
    *(
        'a\u2028b,c"\x85d,\x1f'.encode(),
        b"a#0\tb",
        b"\xff,\xff,\xff",
        b"\0\r\0",
        b"[" * 200,
        b'{"image": 1, "image": 2}',
    ),
    b'{"images": [{"split": "train", "sentences": [{"raw": 1}, 2], "filename": "a"},'
    b' {"split": []}, 3]}',
]
CONTENT = st.lists(st.sampled_from(LINES) | st.binary(max_size=12), max_size=6)


@pytest.mark.parametrize("name", READERS)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=30,
    deadline=None,
)
@given(header=st.sampled_from(LINES[:2]), body=CONTENT, end=st.sampled_from([b"\n", b"\r\n"]))
@example(header=LINES[0], body=[b'a,"b', b"c,d,e", b"f,g,h"], end=b"\n")
@example(header=LINES[1], body=[b'"a\tb\tc', b"c\td\te", b'f\t"g\th'], end=b"\n")
def test_whatever_is_in_a_file_every_row_is_counted_or_the_file_is_named(
    tmp_path: Path, name: str, header: bytes, body: list[bytes], end: bytes
) -> None:
    has_header = name.endswith((".csv", ".tsv"))
    content = end.join([header, *body] if has_header else body)
    path = tmp_path / name
    path.write_bytes(content)
    try:
        kept, rejected = READERS[name](path)
    except ValueError as error:
        message = str(error)
        # a condition that matches no picture
        assert name in message or str(TABLE.num_rows) in message
        return
    if name == "facts.csv":  # joined to pictures: its rows are not what is counted
        return
    texts = content.removeprefix(BOM).split(b"\n")[has_header:]
    is_row = (lambda line: line.removesuffix(b"\r")) if has_header else (lambda line: line.strip())
    if name.endswith((".jsonl", ".token", ".tsv")) or (
        name.endswith(".csv") and b'"' not in content
    ):
        assert kept + rejected == sum(bool(is_row(line)) for line in texts)


@pytest.mark.parametrize(
    "name", [" question_id", "Question_ID", "\ufeffquestion_id", "question_id\xa0"]
)
def test_an_id_whose_column_is_nearly_named_is_not_left_out_in_silence(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "q.csv"
    path.write_text(f"image_id,question,{name}\na,what?,7\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"q\.csv: has .* and no 'question_id'"):
        read_questions(path, {"a"})
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"image_id": "a", "question": "what?", name: "7"}), encoding="utf-8")
    asked, rejects = read_questions(path, {"a"})
    assert not asked
    assert [reject.reason for reject in rejects] == ["not_a_record"]

    for suffix, content in (
        ("csv", f"image,{name}\na.jpg,7\n"),
        ("tsv", f"image\t{name}\na.jpg\t7\n"),
    ):
        path = tmp_path / f"list.{suffix}"
        path.write_text(
            content.replace("uestion", "").replace("q_", "image_").replace("Q_", "Image_"),
            encoding="utf-8",
        )
        with pytest.raises(ValueError, match=r"list\.[ct]sv: has .* and no 'image_id'"):
            list_pictures(str(tmp_path), [str(path)])
    path = tmp_path / "list.jsonl"
    path.write_text('{"image": "a.jpg", "Image_id": "7"}\n{"image": "b.jpg"}\n', encoding="utf-8")
    corpus = list_pictures(str(tmp_path), [str(path)])
    assert corpus.entries["image_id"].to_pylist() == ["b.jpg"]
    assert [(reject.image_id, reject.reason) for reject in corpus.rejects] == [
        ("list.jsonl:1", "bad_record")
    ]
    path = tmp_path / "queries.jsonl"
    path.write_text('{"text": "red", " query_id": "7"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: has ' query_id' and no 'query_id'"):
        read_queries(path)
