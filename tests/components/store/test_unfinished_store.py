"""The work folder: whole shards of the same run are taken over; a store appears whole or not."""

from pathlib import Path

import pytest

from components.files.locks import BusyError
from components.files.written import OutputError
from components.store import unfinished_store as work
from components.store.provenance import StoreError
from components.store.rejects import Reject
from tests.components.store.stores import PROVENANCE, random_rows, shard_of

ROWS = random_rows(["a", "b"], 0)
REJECTS = [Reject("c", "truncated", "half")]


def finish(place: Path, shard: int) -> work.ShardReport:
    return work.finish_shard(place, shard, shard_of(ROWS, PROVENANCE), ROWS.image_ids, REJECTS)


def test_finished_shard_is_found_again(tmp_path: Path) -> None:
    with work.work_folder(tmp_path / "out", "run") as place:
        report = finish(place, 3)
    with work.work_folder(tmp_path / "out", "run") as place:
        assert work.finished_shard(place, 3) == report
        assert work.finished_shard(place, 4) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "no note", "no file"])
def test_shard_that_is_not_whole_is_not_finished(tmp_path: Path, damage: str) -> None:
    with work.work_folder(tmp_path / "out", "run") as place:
        finish(place, 0)
        path = place / "shards" / "part-00000.parquet"
        data = path.read_bytes()
        if damage == "cut":
            path.write_bytes(data[:-1])
        if damage == "flip":
            path.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
        if damage == "no note":
            (place / "done" / "part-00000.parquet.json").unlink()
        if damage == "no file":
            path.unlink()
        assert work.finished_shard(place, 0) is None


def test_shards_of_another_run_are_kept_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with work.work_folder(tmp_path / "out", "one") as first:
        report = finish(first, 0)
    with work.work_folder(tmp_path / "out", "two") as second:
        assert work.finished_shard(second, 0) is None
        assert f"{first}: 1 files done" in capsys.readouterr().err
        work.publish_store(
            second, tmp_path / "out", PROVENANCE, {"rows": 3}, {}, [finish(second, 0)], []
        )
    assert not second.exists()
    with work.work_folder(tmp_path / "out", "one") as first:
        assert work.finished_shard(first, 0) == report


def test_files_of_others_where_work_belongs_are_named_and_stay(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("mine")
    with (
        pytest.raises(OutputError, match=r"holds thesis\.txt"),
        work.work_folder(tmp_path / "out", "run"),
    ):
        pass
    assert [path.name for path in (tmp_path / "out.partial").iterdir()] == ["thesis.txt"]


def test_two_runs_into_one_output_are_refused(tmp_path: Path) -> None:
    with (
        work.work_folder(tmp_path / "out", "run"),
        pytest.raises(BusyError, match="another run is writing"),
        work.work_folder(tmp_path / "out", "run"),
    ):
        pass


def test_publish_refuses_to_lose_a_row(tmp_path: Path) -> None:
    with work.work_folder(tmp_path / "out", "run") as place, pytest.raises(AssertionError):
        work.publish_store(
            place, tmp_path / "out", PROVENANCE, {"rows": 4}, {}, [finish(place, 0)], []
        )
    assert not (tmp_path / "out").exists()


def test_publish_refuses_an_output_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with (
        work.work_folder(tmp_path / "out", "run") as place,
        pytest.raises(StoreError, match="appeared while"),
    ):
        work.publish_store(
            place, tmp_path / "out", PROVENANCE, {"rows": 3}, {}, [finish(place, 0)], []
        )
    assert (tmp_path / "out" / "mine").read_text() == "mine"
