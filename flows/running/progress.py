"""Progress of a job as lines of its log: a fact, the pace, and the time left."""

import time
from collections.abc import Callable

SECONDS_BETWEEN_LINES = 2.0


class Progress:
    """The progress of a job since it began; a line now and then, and one at the end."""

    def __init__(
        self, job: str, unit: str, total: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # `total`: however work is measured
        self.job, self.unit, self.total, self.clock = job, unit, total, clock
        self.started = self.shown = clock()

    def show(self, done: int, fact: str, num_units: float) -> None:
        """Print `fact`, the pace by `num_units` and the time left by `done`, when a line is due."""
        now = self.clock()
        if now - self.shown < SECONDS_BETWEEN_LINES and done < self.total:
            return

        # A first piece that takes no time must not divide by zero.
        spent = max(now - self.started, 1e-9)
        left = spent * (self.total - done) / max(done, 1)
        print(
            f"{self.job}: {fact}, {num_units / spent:.1f} {self.unit}/s, {left:.0f} s left",
            flush=True,
        )
        self.shown = now
