import time
from collections.abc import Iterator

import pytest

from benchmarks.stage_times import stage_seconds, table


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that shows what the list holds."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def output(clock: list[float]) -> Iterator[str]:
    """What DVC 3.67 prints, with the seconds at which it does."""
    for second, line in [
        (1, "Stage 'scenes' didn't change, skipping\n"),
        (2, "Running stage 'curate':\n"),
        (2, "> python -m flows.curate data/raw data/curated\n"),
        (30, "curate: Running stage of my own\n"),
        (50, "Updating lock file 'dvc.lock'\n"),
        (52, "\n"),
        (52, "Running stage 'train':\n"),
        (152, "Stage 'compress' is cached - skipping run, checking out outputs\n"),
        (153, "Running stage 'evaluate':\n"),
        (160, "ERROR: failed to reproduce 'evaluate'\n"),
    ]:
        clock[0] = second
        yield line


def test_stage_seconds_reach_from_one_stage_to_the_next(clock: list[float]) -> None:
    seconds = stage_seconds(output(clock))
    assert seconds == {"scenes": None, "curate": 50, "train": 100, "compress": None, "evaluate": 7}


def test_table_ends_with_the_sum(clock: list[float]) -> None:
    lines = table(stage_seconds(output(clock))).splitlines()
    assert [line.split()[0] for line in lines[2:]] == [
        "scenes",
        "curate",
        "train",
        "compress",
        "evaluate",
        "all",
    ]
    assert lines[-1].split()[1:] == ["157.0", "s"]
