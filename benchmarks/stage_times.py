"""Seconds per stage of a pipeline run, after what `dvc repro` prints is passed on.

dvc repro | python benchmarks/stage_times.py
"""

import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator

RUNNING = re.compile(r"Running stage '(.+)':")
SKIPPED = re.compile(r"Stage '(.+)' (didn't change|is cached)")


def pass_on(lines: Iterable[str]) -> Iterator[str]:
    """Print lines as they come, and yield them."""
    for line in lines:
        print(line, end="", flush=True)
        yield line


def stage_seconds(lines: Iterable[str]) -> dict[str, float | None]:
    """Measure from the line that starts a stage to the next such line, hashing included.

    None: nothing to do.
    """
    seconds: dict[str, float | None] = {}
    running, since = "", 0.0
    for line in lines:
        started, skipped = RUNNING.match(line), SKIPPED.match(line)
        if running and (started or skipped):
            seconds[running], running = time.monotonic() - since, ""
        if started:
            running, since = started[1], time.monotonic()
        if skipped:
            seconds[skipped[1]] = None
    if running:
        seconds[running] = time.monotonic() - since
    return seconds


def table(seconds: dict[str, float | None]) -> str:
    """Write the seconds of each stage, and of all, as lines."""
    lines = ["", "Where the time went (-: nothing to do)"]
    for stage, spent in seconds.items():
        written = "-" if spent is None else f"{spent:.1f} s"
        lines.append(f"{stage:<12} {written:>9}")
    total = sum(spent for spent in seconds.values() if spent)
    written = f"{total:.1f} s"
    lines.append(f"{'all':<12} {written:>9}")
    return "\n".join(lines)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # DVC hears it too, and ends the input
    print(table(stage_seconds(pass_on(sys.stdin))))
