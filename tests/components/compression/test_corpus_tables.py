from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import schema
from components.compression.corpus_tables import list_parquet, read_parquet
from components.store.rejects import UnreadablePictureError


def write(path: Path, ids: list[bytes]) -> Path:
    texts = pa.StringArray.from_buffers(len(ids), *pa.array(ids, pa.binary()).buffers()[1:])
    pictures = pa.array([bytes([number]) * 300 for number in range(len(ids))])
    options = {
        "row_group_size": 2,
        "use_dictionary": False,
        "compression": "none",
        "write_page_checksum": True,
    }
    pq.write_table(pa.table({schema.IMAGE_ID: texts, schema.IMAGE: pictures}), path, **options)
    return path


def test_a_damaged_row_group_costs_its_pictures_and_no_others(tmp_path: Path) -> None:
    place = write(tmp_path / "a.parquet", [b"a", b"b", b"c", b"d", b"e"])
    place.write_bytes(place.read_bytes().replace(b"\2" * 300, b"\2" * 299 + b"\7"))
    found = {}
    for picture in read_parquet(str(place), dict(enumerate("abcde")), 10**6):
        try:
            found[picture.image_id] = picture.load()[0]
        except UnreadablePictureError as error:
            found[picture.image_id] = error.reason
    assert found == {"a": 0, "b": 1, "c": "unreadable_shard", "d": "unreadable_shard", "e": 4}


def test_an_id_that_is_no_text_or_too_long_costs_its_row(tmp_path: Path) -> None:
    place = write(
        tmp_path / "a.parquet", [b"a", b"\xff", b"x" * (schema.MAX_ID_BYTES + 1), b"", b"e"]
    )
    corpus = list_parquet(str(tmp_path), [str(place)])
    assert corpus.entries[schema.IMAGE_ID].to_pylist() == ["a", "e"]
    assert [reject.reason for reject in corpus.rejects] == ["bad_id"] * 3


def test_files_behind_one_another_are_named(tmp_path: Path) -> None:
    place = write(tmp_path / "a.parquet", [b"a", b"b", b"c"])
    place.write_bytes(place.read_bytes() * 2)
    with pytest.raises(
        ValueError, match=r"a\.parquet: cannot be read as Parquet: its first \d+ bytes are a file"
    ):
        list_parquet(str(tmp_path), [str(place)])
