"""The benchmark's own judgement: which folders hold the same bytes, and what was planted."""

from pathlib import Path

from benchmarks.curation import same_files
from benchmarks.curation_world import FAULTS, MAX_ROWS_PER_CAPTION, expected_rejects, fault_of


def test_same_files_sees_other_bytes_and_other_names(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub/a.parquet").write_bytes(b"x")
    assert same_files(one, other)
    (other / "sub/a.parquet").write_bytes(b"y")
    assert not same_files(one, other)
    (other / "sub/a.parquet").write_bytes(b"x")
    (other / "b.parquet").write_bytes(b"")
    assert not same_files(one, other)


def test_expected_rejects_are_the_rows_with_a_fault() -> None:
    found = [fault_of(row) for row in range(3000)]
    expected = {fault: found.count(fault) for fault in FAULTS}
    expected["repeated_caption"] = max(expected["repeated_caption"] - MAX_ROWS_PER_CAPTION, 0)
    assert expected_rejects(3000) == {fault: count for fault, count in expected.items() if count}
