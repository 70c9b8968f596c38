"""The charts of the page as positions, ticks and paths. Drawing and colours are the templates' business.

All charts are SVG in a coordinate system of 200 to 500 units' width, so that text keeps its size
where several stand in a row and where one fills a phone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from components.reporting.geometry import Axis, Tick, Tip, padded, ticks, tip
from components.reporting.inputs import Points
from components.reporting.metric_tables import COMPRESSED, SYSTEMS, RecallRow, ScoreRow
from components.reporting.wording import interval, number, percent, thousands, whole_percent


class Values(NamedTuple):
    """What stands on the y axis of a line chart."""

    range: tuple[float, float] | None  # None: as far as the numbers go
    text: Callable[[float], str]
    tick: Callable[[float], str]


class Line(NamedTuple):
    name: str
    path: str
    end: tuple[float, float]
    last: str  # its last value


class Chart(NamedTuple):
    """Lines over a pair of axes."""

    title: str
    width: float
    height: float
    frame: tuple[float, float, float, float]  # left, top, right, bottom
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    tips: list[Tip]
    strip: float  # width of the area that shows a tip


class Mark(NamedTuple):
    """A system's score with its interval, along x (interval charts) or along y (token charts)."""

    system: str
    x: float
    y: float
    low: float
    high: float
    tip: Tip


class TokenChart(NamedTuple):
    """Accuracy of all systems against the visual tokens that they read."""

    title: str
    width: float
    height: float
    frame: tuple[float, float, float, float]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    path: str  # through the systems that are not trained to compress
    marks: list[Mark]


class IntervalChart(NamedTuple):
    """One line of a table: a lane per system."""

    width: float
    height: float
    ticks: list[Tick]
    marks: list[Mark]


class RecallBar(NamedTuple):
    """Recall among the first k; positions along x."""

    label: str
    y: float
    end: float
    low: float
    high: float
    chance: float
    text: str
    tip: Tip


class RecallChart(NamedTuple):
    width: float
    height: float
    left: float  # where the bars begin
    bars: list[RecallBar]


def line_chart(
    title: str, curves: Mapping[str, Points], values: Values, size: tuple[float, float]
) -> Chart:
    """One or two named curves, none of them empty; `size` is width and height."""
    width, height = size
    frame = (40.0, 12.0, width - 12, height - 24)
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    low, high = values.range or padded(min(ys), max(ys))
    x_axis, y_axis = Axis(min(xs), max(xs), frame[0], frame[2]), Axis(low, high, frame[3], frame[1])
    lines = [
        to_line(name, values.text(points[-1][1]), points, x_axis, y_axis)
        for name, points in curves.items()
    ]
    num_points = max(len(points) for points in curves.values())
    return Chart(
        title,
        width,
        height,
        frame,
        [
            Tick(x_axis.at(x), thousands(x))
            for x in ticks(x_axis.low, x_axis.high, round(width / 75))
        ],
        [Tick(y_axis.at(y), values.tick(y)) for y in ticks(low, high, round(height / 50))],
        lines,
        curve_tips(curves, values, x_axis, y_axis, width),
        round((frame[2] - frame[0]) / max(1, num_points - 1), 1),
    )


def curve_tips(
    curves: Mapping[str, Points], values: Values, x_axis: Axis, y_axis: Axis, width: float
) -> list[Tip]:
    """A tip at every x, with the values of all curves there."""
    said: dict[float, list[str]] = {}
    heights: dict[float, float] = {}
    for name, points in curves.items():
        for x, y in points:
            said.setdefault(x, []).append(
                f"{name} {values.text(y)}" if len(curves) > 1 else values.text(y)
            )
            heights[x] = min(heights.get(x, math.inf), y_axis.at(y))
    return [
        tip(x_axis.at(x), heights[x], f"{thousands(x)}: {', '.join(texts)}", width)
        for x, texts in sorted(said.items())
    ]


def to_line(name: str, last: str, points: Points, x_axis: Axis, y_axis: Axis) -> Line:
    """A path through the points."""
    places = [(x_axis.at(x), y_axis.at(y)) for x, y in points]
    path = " ".join(f"{'L' if index else 'M'}{x} {y}" for index, (x, y) in enumerate(places))
    return Line(name, path, places[-1], last)


def token_chart(
    row: ScoreRow, visual_tokens: Mapping[str, int], names: Mapping[str, str]
) -> TokenChart:
    """Along x the logarithm of tokens + 1, so that no token and many fit one axis."""
    width, height = 320.0, 210.0
    frame = (36.0, 14.0, width - 18, height - 34)
    position = {system: math.log2(1 + visual_tokens[system]) for system in row.scores}
    x_axis = Axis(min(position.values()), max(position.values()), frame[0] + 14, frame[2] - 14)
    y_axis = Axis(0, 1, frame[3], frame[1])
    marks = []
    for system, score in row.scores.items():
        x, y = x_axis.at(position[system]), y_axis.at(score.value)
        text = f"{names[system]}: {percent(score.value)} [{interval(score.low, score.high)}]"
        marks.append(
            Mark(system, x, y, y_axis.at(score.low), y_axis.at(score.high), tip(x, y, text, width))
        )
    plain = sorted((mark.x, mark.y) for mark in marks if mark.system != COMPRESSED)
    counts = sorted({visual_tokens[system] for system in row.scores})
    return TokenChart(
        row.label,
        width,
        height,
        frame,
        [Tick(x_axis.at(math.log2(1 + count)), str(count)) for count in counts],
        [Tick(y_axis.at(y), whole_percent(y)) for y in (0, 0.25, 0.5, 0.75, 1)],
        " ".join(f"{'L' if index else 'M'}{x} {y}" for index, (x, y) in enumerate(plain)),
        marks,
    )


def interval_chart(row: ScoreRow, names: Mapping[str, str]) -> IntervalChart:
    """0 to 100 % along x."""
    width, lane = 260.0, 11.0
    x_axis = Axis(0, 1, 6, width - 6)
    marks = []
    for index, system in enumerate(system for system in SYSTEMS if system in row.scores):
        score = row.scores[system]
        x, y = x_axis.at(score.value), round(lane * (index + 0.5) + 2, 1)
        text = f"{names[system]}: {percent(score.value)} [{interval(score.low, score.high)}]"
        marks.append(
            Mark(system, x, y, x_axis.at(score.low), x_axis.at(score.high), tip(x, y, text, width))
        )
    height = round(lane * len(marks) + 4, 1)
    return IntervalChart(
        width,
        height,
        [Tick(x_axis.at(x), whole_percent(x)) for x in (0, 0.25, 0.5, 0.75, 1)],
        marks,
    )


def recall_chart(rows: Sequence[RecallRow]) -> RecallChart:
    """0 to 100 % along x, a bar for every k."""
    width, left, step = 420.0, 58.0, 34.0
    x_axis = Axis(0, 1, left, width - 52)
    bars = []
    for index, row in enumerate(rows):
        score, y = row.score, step * index + 14
        text = f"{percent(score.value)} [{interval(score.low, score.high)}], by chance {percent(row.chance)}"
        end, low, high, chance = (
            x_axis.at(value) for value in (score.value, score.low, score.high, row.chance)
        )
        shown = tip(end, y - 6, text, width)
        bars.append(
            RecallBar(f"top {row.k}", y, end, low, high, chance, percent(score.value), shown)
        )
    return RecallChart(width, step * len(rows), left, bars)


NUMBERS = Values(None, number, number)
SHARES = Values((0.0, 1.0), percent, whole_percent)
