import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import schema
from components.training.samples import SampleTable, write_sample_file
from tests.components.training.world import LIMITS, sample_rows, samples


@pytest.fixture
def table(tmp_path: Path) -> SampleTable:
    for shard in range(2):
        rows = pa.Table.from_pylist(
            sample_rows(10)[shard * 5 : shard * 5 + 5], schema=schema.SAMPLES
        )
        pq.write_table(rows, tmp_path / f"part-{shard:05d}.parquet")
    write_sample_file(sorted(tmp_path.glob("*.parquet")), tmp_path / "samples.arrow")
    return SampleTable(tmp_path / "samples.arrow")


def test_rows_come_back_by_position(table: SampleTable) -> None:
    assert len(table) == 10
    for index in (7, 0, 4, 9):
        found, expected = table.sample(index, LIMITS), samples(10)[index]
        assert found._replace(image=None) == expected._replace(image=None)
        assert (found.image is None) == (expected.image is None)
        if found.image is not None:
            assert np.array_equal(np.asarray(found.image), np.asarray(expected.image))


def test_flags_say_what_a_sample_can_be_used_for(table: SampleTable) -> None:
    assert table.has_conversation.tolist() == [True, True, True, False, True] * 2
    assert table.has_caption.tolist() == [True, True, False, True, False] * 2


def test_the_length_of_a_text_is_that_of_the_conversation_or_else_of_the_caption(
    table: SampleTable,
) -> None:
    lengths = table.text_lengths.tolist()
    for index, sample in samples(10).items():
        characters = sum(len(turn["content"]) for turn in sample.conversation)
        assert lengths[index] == (characters or len(sample.caption or ""))


def test_a_caption_without_a_picture_is_of_no_use(tmp_path: Path) -> None:
    row = sample_rows(1)[0] | {schema.IMAGE: None}
    pq.write_table(pa.Table.from_pylist([row], schema=schema.SAMPLES), tmp_path / "part.parquet")
    write_sample_file([tmp_path / "part.parquet"], tmp_path / "samples.arrow")
    assert SampleTable(tmp_path / "samples.arrow").has_caption.tolist() == [False]


def test_a_damaged_picture_is_reported_with_its_sample(tmp_path: Path) -> None:
    row = sample_rows(1)[0]
    row[schema.IMAGE] = row[schema.IMAGE][:60]
    pq.write_table(pa.Table.from_pylist([row], schema=schema.SAMPLES), tmp_path / "part.parquet")
    write_sample_file([tmp_path / "part.parquet"], tmp_path / "samples.arrow")
    with pytest.raises(ValueError, match="sample sample-0: "):
        SampleTable(tmp_path / "samples.arrow").sample(0, LIMITS)


def test_nothing_is_left_when_a_shard_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "part.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(pa.ArrowInvalid):
        write_sample_file([tmp_path / "part.parquet"], tmp_path / "samples.arrow")
    assert not (tmp_path / "samples.arrow").exists()


def test_the_file_is_the_same_every_time(table: SampleTable, tmp_path: Path) -> None:
    write_sample_file(sorted(tmp_path.glob("*.parquet")), tmp_path / "again.arrow")
    assert (tmp_path / "again.arrow").read_bytes() == (tmp_path / "samples.arrow").read_bytes()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".partial")]
