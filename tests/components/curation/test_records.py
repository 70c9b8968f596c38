import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.curation import records
from components.curation.reasons import Reason, Rejected
from components.curation.records import (
    decode_entries,
    encode_entries,
    parse_json,
    read_entries,
    read_object,
)


def test_read_entries_of_an_array_gives_every_row_and_accepts_a_byte_order_mark(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b'\xef\xbb\xbf[{"id": 1}, "text", null]')
    assert [entry.value for entry in list(read_entries(str(path)))] == [{"id": 1}, "text", None]


def test_read_entries_of_a_cut_array_names_file_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    text = '[{"id": "ä"}, {"id": '
    path.write_text(text, encoding="utf-8")
    with pytest.raises(
        ValueError, match=rf"rows\.json: is not JSON from byte {len(text.encode())} on"
    ):
        list(read_entries(str(path)))


@pytest.mark.parametrize(
    "text",
    ['{"a": 1}', "", "[1, 2", "[1 2]", "[1,]", "[1] 2", "[" * 100_000, "[1" * 5000 + "9" * 5000],
)
def test_read_entries_of_what_is_no_array_of_rows_fails_readably(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"rows\.json"):
        list(read_entries(str(path)))


def test_read_entries_of_lines_rejects_only_the_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": 1}\n{"id": \n\n{"id": Infinity}\n\xff\n{"id": 2}\n')
    entries = list(read_entries(str(path)))
    values = [
        entry.value.reason if isinstance(entry.value, Rejected) else entry.value
        for entry in entries
    ]
    assert values == [{"id": 1}, Reason.BAD_JSON, Reason.BAD_JSON, Reason.BAD_ENCODING, {"id": 2}]
    assert [entry.place for entry in entries] == [
        f"rows.jsonl:{number}" for number in (1, 2, 4, 5, 6)
    ]


def test_entries_survive_the_way_to_another_process(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "\\ud83d"}\n{\n')
    first, second = decode_entries(encode_entries(list(read_entries(str(path)))))
    assert first.value == {"id": "\ud83d"}
    assert second.value.reason is Reason.BAD_JSON


def test_parse_json_of_deep_nesting_is_a_reject() -> None:
    with pytest.raises(Rejected) as caught:
        parse_json(b"[" * 200_000)
    assert caught.value.reason is Reason.BAD_JSON


@pytest.mark.parametrize(
    ("text", "why"),
    [('{"a": NaN}', "NaN"), ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is there twice")],
)
def test_what_python_would_let_pass_rejects_the_row_and_no_other(
    tmp_path: Path, text: str, why: str
) -> None:
    for path, whole in (
        (tmp_path / "rows.json", f"[{text}, 7]"),
        (tmp_path / "rows.jsonl", f"{text}\n7\n"),
    ):
        path.write_text(whole)
        broken, good = read_entries(str(path))
        assert broken.value.reason is Reason.BAD_JSON
        assert why in broken.value.detail
        assert good.value == 7


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(JSON, max_size=8),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
)
def test_an_array_read_in_pieces_is_what_python_reads_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: list,
    chunk: int,
    indent: int | None,
    ascii_only: bool,
) -> None:
    path = tmp_path / "rows.json"
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    monkeypatch.setattr(records, "CHUNK", chunk)
    try:
        expected = json.loads(path.read_bytes().decode())
    except UnicodeDecodeError:
        with pytest.raises(ValueError, match="is not UTF-8"):
            list(read_entries(str(path)))
        return
    entries = list(read_entries(str(path)))
    assert [entry.value for entry in entries] == expected
    assert [entry.place for entry in entries] == [
        f"rows.json:{index}" for index in range(len(rows))
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(JSON, min_size=1, max_size=5), chunk=st.integers(1, 40), data=st.data())
def test_damage_is_an_error_that_names_a_byte_or_a_rejected_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list, chunk: int, data: st.DataObject
) -> None:
    """Bytes are cut, changed or added: what Python's own parser refuses is refused here too."""
    text = json.dumps(rows).encode()
    at = data.draw(st.integers(0, len(text) - 1))
    noise = data.draw(st.binary(max_size=3))
    text = text[:at] + noise + text[at + data.draw(st.integers(0, 3)) :]
    (tmp_path / "rows.json").write_bytes(text)
    monkeypatch.setattr(records, "CHUNK", chunk)
    try:
        expected = json.loads(text.decode("utf-8-sig"))
    except ValueError:
        expected = None
    if not isinstance(expected, list):
        with pytest.raises(ValueError, match=r"rows\.json: is "):
            list(read_entries(str(tmp_path / "rows.json")))
        return
    values = [entry.value for entry in read_entries(str(tmp_path / "rows.json"))]
    assert len(values) == len(expected)
    pairs = zip(values, expected, strict=True)
    assert all(
        isinstance(value, Rejected) or repr(value) == repr(wanted) for value, wanted in pairs
    )


def test_the_byte_of_a_fault_is_counted_over_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '[{"id": "ä"}, {"id": "日本"}, {"id" 3}]'
    (tmp_path / "rows.json").write_text(text, encoding="utf-8")
    place = len(text[: text.index(" 3}") + 1].encode())
    for chunk in (1, 5, 1000):
        monkeypatch.setattr(records, "CHUNK", chunk)
        with pytest.raises(ValueError, match=f"is not JSON from byte {place} on"):
            list(read_entries(str(tmp_path / "rows.json")))


def test_an_object_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text('{"images": []}')
    assert read_object(str(path)) == {"images": []}
    for text, why in (
        ("[]", "not an object"),
        ('{"a": ', "from byte 6 on"),
        ('{"a": Infinity}', "Infinity"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=why):
            read_object(str(path))
