"""Numbers to positions on a chart. Positions are rounded to a tenth of a unit: equal numbers give equal bytes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

CHARACTER = 5.9  # width of a character of a tip
TIP_HEIGHT, TIP_PADDING = 17.0, 6.0


class Axis(NamedTuple):
    """Numbers `low` … `high` to positions `start` … `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return round(self.start + share * (self.end - self.start), 1)


class Tick(NamedTuple):
    at: float
    text: str


class Tip(NamedTuple):
    """Text that appears over (x, y); `left`, `top` and `width` are those of its frame."""

    x: float
    y: float
    text: str
    left: float
    top: float
    width: float


def tip(x: float, y: float, text: str, width: float) -> Tip:
    """Above the point, or below it where there is no room, and inside the chart."""
    own = round(len(text) * CHARACTER + 2 * TIP_PADDING, 1)
    left = round(min(max(x - own / 2, 0), max(width - own, 0)), 1)
    top = y - TIP_HEIGHT - 8
    return Tip(x, y, text, left, round(top if top >= 0 else y + 8, 1), own)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between two numbers."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    size = 10 ** math.floor(math.log10(raw))
    step = min(
        (size * factor for factor in (1, 2, 2.5, 5, 10)), key=lambda step: abs(math.log(step / raw))
    )
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def padded(low: float, high: float) -> tuple[float, float]:
    """A range with some room at both ends, from 0 when that is near."""
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < high / 2 else low - room), high + room


def bar_widths(values: Sequence[float], longest: float) -> list[float]:
    """Lengths in proportion, the greatest `longest`; what is not nothing is seen."""
    top = max(values, default=0)
    return [round(max(longest * value / top, 1.0), 1) if value > 0 else 0.0 for value in values]
