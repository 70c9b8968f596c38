import io
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather

from components.curation.captions import read_row_group, read_stream
from components.curation.reasons import Reason, Rejected
from components.files import parquet
from components.files.parquet import TABLE_ERRORS, open_parquet, scalar_value

COLUMNS = {"id": "name", "image": "image", "caption": "text"}


WRITERS: list[dict[str, Any]] = [
    {},
    {"data_page_version": "2.0", "compression": "zstd"},
    {"use_dictionary": False, "write_page_index": True, "write_page_checksum": True},
    {"row_group_size": 7, "compression": "none"},
    {"compression": "gzip", "version": "1.0", "data_page_size": 100},
]


def table(num_rows: int = 20) -> pa.Table:
    pictures = [random.Random(row).randbytes(200) for row in range(num_rows)]
    image = pa.array([{"bytes": data, "path": None} for data in pictures])
    return pa.table(
        {
            "name": [f"n{row}" for row in range(num_rows)],
            "text": [f"text {row % 3}" for row in range(num_rows)],
            "image": image,
        }
    )


def write(path: Path, content: pa.Table, **options: Any) -> Path:
    pq.write_table(content, path, **options)
    return path


def rows_of(place: Path) -> Iterator[Any]:
    with open_parquet(str(place)) as opened:
        groups = [
            opened.metadata.row_group(number).num_rows
            for number in range(opened.metadata.num_row_groups)
        ]
    for group, num_rows in enumerate(groups):
        yield from read_row_group(str(place), group, num_rows, COLUMNS)


def reasons(entries: Iterator[Any]) -> list[str]:
    return [
        entry.value.reason.value if isinstance(entry.value, Rejected) else "kept"
        for entry in entries
    ]


def test_bytes_of_no_size_and_rows_of_no_number_are_files(tmp_path: Path) -> None:
    for number in (0, 1):
        assert (
            len(list(rows_of(write(tmp_path / "a.parquet", table(1).slice(0, number))))) == number
        )


def test_pages_that_hold_fewer_rows_than_promised_are_rejects(tmp_path: Path) -> None:
    """Both numbers of the footer, of all rows and of the group, say 21; the last is a reject."""
    place = write(tmp_path / "a.parquet", table(20))
    data = place.read_bytes()
    at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    place.write_bytes(data[:at] + data[at:].replace(b"\x16\x28", b"\x16\x2a"))
    found = reasons(rows_of(place))
    assert len(found) == 21
    assert found[-1] == "unreadable_shard"


def test_a_value_that_is_no_text_costs_its_row(tmp_path: Path) -> None:
    texts = pa.array([b"fine", b"\xff\xfe", b"fine"], pa.binary())
    texts = pa.StringArray.from_buffers(3, *texts.buffers()[1:])
    content = table(3).set_column(1, "text", texts)
    for place in (
        write(tmp_path / "a.parquet", content),
        write(tmp_path / "b.parquet", content, store_schema=False),
    ):
        found = [entry.value["caption"] for entry in rows_of(place)]
        assert found == ["fine", "\udcff\udcfe", "fine"]
    with (
        pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file,
        pa.ipc.new_stream(file, content.schema) as stream,
    ):
        stream.write_table(content)
    assert [entry.value["caption"] for entry in read_stream(str(tmp_path / "a.arrow"), COLUMNS)][
        1
    ] == "\udcff\udcfe"


def test_rows_in_front_of_damage_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BATCH_ROWS", 10)
    options: dict[str, Any] = {
        "use_dictionary": False,
        "compression": "none",
        "data_page_size": 2000,
    }
    place = write(
        tmp_path / "a.parquet",
        table(5000),
        write_batch_size=10,
        write_page_checksum=True,
        **options,
    )
    data = bytearray(place.read_bytes())
    data[data.index(random.Random(3000).randbytes(200)) + 50] ^= 1
    place.write_bytes(data)
    found = reasons(rows_of(place))
    assert len(found) == 5000
    assert 1000 < found.count("kept") <= 3000
    assert set(found[found.count("kept") :]) == {"unreadable_shard"}


def repeated(num_bytes: int, num_rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(
        np.zeros(num_rows, np.int32), pa.array([bytes(num_bytes)])
    )


BOMBS = {
    "one value for all rows": (lambda: repeated(70_000_000, 60), {"compression": "zstd"}),
    "a smaller value for all rows": (lambda: repeated(50_000_000, 8), {"compression": "zstd"}),
    "zeros": (
        lambda: pa.array([bytes(80_000_000)] * 2),
        {"compression": "zstd", "use_dictionary": False},
    ),
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_small_file_takes_little_memory(tmp_path: Path, what: str) -> None:
    make, options = BOMBS[what]
    values = make()
    names = [str(row) for row in range(len(values))]
    content = pa.table({"name": names, "text": names, "image": values})
    place = write(tmp_path / "a.parquet", content, store_schema=False, **options)
    assert place.stat().st_size < 100_000
    code = (
        "import resource, sys\nfrom components.curation.captions import read_row_group\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "columns = {'id': 'name', 'image': 'image', 'caption': 'text'}\n"
        "found = sum(1 for _ in read_row_group(sys.argv[1], 0, int(sys.argv[2]), columns))\n"
        "print(found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, place, str(len(values))],
        capture_output=True,
        text=True,
        check=True,
    )
    found, kilobytes = map(int, done.stdout.split())
    assert found == len(values)
    assert kilobytes < 500_000


def test_streams_behind_one_another_are_read_on_and_a_cut_one_says_so(tmp_path: Path) -> None:
    def stream(content: pa.Table) -> bytes:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, content.schema) as writer:
            writer.write_table(content, max_chunksize=5)
        return sink.getvalue()

    def found(content: bytes) -> list[str]:
        (tmp_path / "a.arrow").write_bytes(content)
        return reasons(read_stream(str(tmp_path / "a.arrow"), COLUMNS))

    one = stream(table(20))
    assert found(one + one) == ["kept"] * 40
    assert found(one[:-8]) == ["kept"] * 20 + ["unreadable_shard"]
    assert found(one[:-20])[-1] == "unreadable_shard"
    assert found(one + b"garbage") == ["kept"] * 20 + ["unreadable_shard"]
    assert found(b"") == ["unreadable_shard"]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("a", pa.dictionary(pa.int8(), pa.string())),
        ({"bytes": b"1", "path": "a"}, None),
        (None, pa.string()),
        (7, None),
    ],
)
def test_scalar_value_is_what_pyarrow_says(value: object, kind: pa.DataType | None) -> None:
    assert scalar_value(pa.array([value], kind)[0]) == value


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None
)
@given(data=st.data(), options=st.sampled_from(WRITERS))
def test_no_damage_lets_another_error_out(
    tmp_path: Path, data: st.DataObject, options: dict[str, Any]
) -> None:
    """Rows in are rows and rejects; where the file does not open, it says why."""
    place = write(tmp_path / "a.parquet", table(20), **options)
    content = bytearray(place.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    place.write_bytes(content)
    try:
        with open_parquet(str(place)) as opened:
            num_rows = opened.metadata.num_rows
        found = list(rows_of(place))
    except TABLE_ERRORS:
        return
    assert len(found) == num_rows
    assert all(
        isinstance(entry.value, dict) or entry.value.reason in set(Reason) for entry in found
    )


def test_values_that_repeat_the_one_before_are_read_few_at_once(tmp_path: Path) -> None:
    value = random.Random(0).randbytes(1 << 20)
    content = pa.table({"image": pa.array([value] * 300)})
    options = {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY"}}
    place = str(write(tmp_path / "a.parquet", content, **options))
    with open_parquet(place) as opened:
        sizes = [len(batch) for batch in parquet.read_batches(place, opened, 0, ["image"])]
    assert sum(sizes) == 300
    assert max(sizes) * len(value) <= parquet.BATCH_BYTES


@pytest.mark.parametrize("compression", ["uncompressed", "zstd"])
def test_arrow_with_a_footer_is_read_and_a_cut_one_is_a_reject(
    tmp_path: Path, compression: str
) -> None:
    place = tmp_path / "a.arrow"
    feather.write_feather(table(3), str(place), compression=compression)
    assert [entry.value["id"] for entry in read_stream(str(place), COLUMNS)] == ["n0", "n1", "n2"]
    place.write_bytes(place.read_bytes()[:-1])
    (entry,) = read_stream(str(place), COLUMNS)
    assert isinstance(entry.value, Rejected)
    assert entry.value.reason is Reason.UNREADABLE_SHARD
