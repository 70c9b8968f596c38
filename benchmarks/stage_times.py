"""Where the time of a pipeline run goes: passes on what `dvc repro` prints, then seconds per stage.

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
    for line in lines:
        print(line, end="", flush=True)
        yield line


def stage_seconds(lines: Iterable[str]) -> dict[str, float | None]:
    """Seconds from the line that starts a stage to the next such line, hashing included; None: nothing to do."""
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
    total = sum(spent for spent in seconds.values() if spent)
    rows = [
        f"{stage:<12} {'-' if spent is None else f'{spent:.1f} s':>9}"
        for stage, spent in seconds.items()
    ]
    return "\n".join(
        ["", "Where the time went (-: nothing to do)", *rows, f"{'all':<12} {f'{total:.1f} s':>9}"]
    )


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # DVC hears it too, and ends the input
    print(table(stage_seconds(pass_on(sys.stdin))))
