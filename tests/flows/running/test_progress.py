"""Lines of a job that took the times given here."""

import pytest

from flows.running.progress import Progress


def test_lines_come_two_seconds_apart_and_at_the_end_with_pace_and_time_left(
    capsys: pytest.CaptureFixture,
) -> None:
    times = iter([100.0, 101.0, 104.0, 105.0, 106.0])
    progress = Progress("pack", "boxes", total=8, clock=lambda: next(times))
    for done, num_boxes in ((1, 5), (2, 10), (3, 20), (8, 33)):
        progress.show(done, f"{done} of 8 lorries", num_boxes)
    assert capsys.readouterr().out.splitlines() == [
        "pack: 2 of 8 lorries, 2.5 boxes/s, 12 s left",
        "pack: 8 of 8 lorries, 5.5 boxes/s, 0 s left",
    ]
