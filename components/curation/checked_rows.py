"""Progress of a long loop as plain log lines: done, rate, time left."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator

SECONDS_BETWEEN_LINES = 10.0


def log_progress(
    parts: Iterable[int],
    what: str,
    num_parts: int,
    log: logging.Logger,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[int]:
    """Pass rows per part on, and log now and then how many rows went by, rows/s and the time left."""
    start = last = clock()
    num_rows = 0
    for done, part in enumerate(parts, start=1):
        num_rows += part
        yield part
        now = clock()
        if now - last >= SECONDS_BETWEEN_LINES or done == num_parts:
            last = now
            elapsed = max(now - start, 1e-9)
            left = elapsed / done * (num_parts - done)
            rate = num_rows / elapsed
            log.info(
                "%s: %d rows, %d of %d parts, %.0f rows/s, %.0f s left",
                what,
                num_rows,
                done,
                num_parts,
                rate,
                left,
            )
