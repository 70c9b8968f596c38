from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import schema
from components.curation.candidates import CANDIDATES
from components.curation.written_tables import (
    PLAN,
    ROWS_PER_GROUP,
    TableWriter,
    staging_path,
    write_rows,
    write_shard,
)

NUMBERS = pa.schema([pa.field("n", pa.int64())])


@pytest.mark.parametrize("num_rows", [0, 1, 4, 9])
def test_table_writer_writes_groups_and_says_where_a_row_is(tmp_path: Path, num_rows: int) -> None:
    path = tmp_path / "folder" / "table.parquet"
    with TableWriter(path, NUMBERS, "zstd", rows_per_group=4) as table:
        positions = [table.add({"n": n}) for n in range(num_rows)]
        assert not path.exists()
    assert positions == list(range(num_rows))
    assert pq.read_table(path)["n"].to_pylist() == positions
    assert pq.read_schema(path) == NUMBERS
    groups = pq.ParquetFile(path).metadata
    assert all(groups.row_group(i).num_rows <= 4 for i in range(groups.num_row_groups))
    assert [file.name for file in path.parent.iterdir()] == ["table.parquet"]


def test_table_writer_leaves_nothing_when_the_rows_end_in_an_error(tmp_path: Path) -> None:
    table = TableWriter(tmp_path / "t.parquet", NUMBERS, "zstd", 2)
    table.add({"n": 1})
    error = OSError("the disk")
    table.__exit__(type(error), error, None)
    assert list(tmp_path.iterdir()) == []


def test_write_shard_finds_rows_in_any_row_group_of_any_task(tmp_path: Path) -> None:
    row = dict.fromkeys(CANDIDATES.names) | {
        "source": "captions",
        "conversation": [],
        "repairs": [],
    }
    for task in (0, 1):
        with TableWriter(
            staging_path(tmp_path, task), CANDIDATES, "none", ROWS_PER_GROUP
        ) as accepted:
            for number in range(2 * ROWS_PER_GROUP + 3):
                accepted.add(row | {"sample_id": "old", "caption": f"{task} {number}"})
    wanted = [
        (0, 1),
        (0, 2),
        (0, ROWS_PER_GROUP),
        (0, 2 * ROWS_PER_GROUP + 2),
        (1, 0),
        (1, ROWS_PER_GROUP + 7),
    ]
    path = "samples/train/part-00000.parquet"
    plan = [{"task": task, "position": at, "row_id": f"{task}/{at}"} for task, at in wanted]
    write_rows(plan, PLAN, tmp_path / "plan" / path)
    assert write_shard(path, tmp_path, tmp_path / "output") == len(wanted)
    table = pq.read_table(tmp_path / "output" / path)
    assert table.schema == schema.SAMPLES
    assert table["caption"].to_pylist() == [f"{task} {at}" for task, at in wanted]
    assert table["sample_id"].to_pylist() == [f"{task}/{at}" for task, at in wanted]
    assert set(table["split"].to_pylist()) == {"train"}
