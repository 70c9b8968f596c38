"""The charts of the page: lines over steps or layers, scores against tokens, and bars.

All are 200 to 500 units wide, so that text keeps its size where several stand in a row and where
one fills a phone.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from components.reporting.inline_svg import (
    COLOURS,
    add_point_tip,
    add_tip,
    inline_svg,
    new_axes,
    page_style,
)
from components.reporting.inputs import Points
from components.reporting.metric_tables import (
    AVERAGE_POOLED,
    BLIND,
    COMPRESSED,
    DOWNSAMPLED,
    UNCOMPRESSED,
    RecallRow,
    Score,
    ScoreRow,
)
from components.reporting.wording import (
    count,
    data_size,
    interval,
    number,
    percent,
    thousands,
    whole_percent,
)

LINE_COLOURS = (COLOURS["compressed"], COLOURS["second"])
MARKERS: dict[str, dict[str, Any]] = {  # shapes differ, so that nothing depends on colours
    COMPRESSED: {"marker": "o", "markersize": 10},
    UNCOMPRESSED: {"marker": "s", "markersize": 8},
    AVERAGE_POOLED: {"marker": "D", "markersize": 7.8},
    DOWNSAMPLED: {"marker": "^", "markersize": 9},
    BLIND: {
        "marker": "o",
        "markersize": 8,
        "markerfacecolor": COLOURS["card"],
        "markeredgewidth": 2,
    },
}
ROUND = (1, 2, 2.5, 5, 10)  # steps between ticks, times a power of ten
QUARTERS = (0, 0.25, 0.5, 0.75, 1)
LANE = 34.0  # height of a bar with the room around it


class Values(NamedTuple):
    """Range and wording of the y axis of a line chart."""

    range: tuple[float, float] | None  # None: as far as the numbers go
    text: Callable[[float], str]
    tick: Callable[[float], str]


NUMBERS = Values(None, number, number)
SHARES = Values((0.0, 1.0), percent, whole_percent)


class Chart(NamedTuple):
    """A drawing with the texts around it."""

    title: str
    svg: Markup
    note: str = ""  # beside the title
    lines: tuple[str, ...] = ()  # names of the lines, where there are several
    remark: str = ""  # below


@page_style
def line_chart(
    title: str, curves: Mapping[str, Points], values: Values, size: tuple[float, float]
) -> Chart:
    """Draw one or two named curves, none of them empty; `size` is width and height."""
    width, height = size
    axes = new_axes(width, height)

    # the last value of each curve has a dot, and stands beside the title
    last = []
    for colour, points in zip(LINE_COLOURS, curves.values(), strict=False):
        axes.plot(*zip(*points, strict=True), color=colour)
        axes.plot(*points[-1], "o", color=colour, markersize=6)
        last.append(values.text(points[-1][1]))

    # few round numbers on both axes
    axes.xaxis.set_major_locator(MaxNLocator(round(width / 60), steps=ROUND, integer=True))
    axes.xaxis.set_major_formatter(lambda x, _: thousands(x))
    axes.yaxis.set_major_locator(MaxNLocator(round(height / 40), steps=ROUND))
    axes.yaxis.set_major_formatter(lambda y, _: values.tick(y))
    axes.margins(x=0, y=0.06)

    # limits are fixed before tips, which reach beyond the numbers
    axes.set_xlim(axes.get_xlim())
    if values.range:
        axes.set_ylim(values.range)
    else:
        start_at_zero_if_near(axes)
    add_step_tips(axes, curves, values)

    names = tuple(curves) if len(curves) > 1 else ()
    return Chart(title, inline_svg(axes, title), " · ".join(last), names)


def start_at_zero_if_near(axes: Axes) -> None:
    """Let y begin at zero if no number is below it, and the lowest is not far above."""
    low, high = axes.dataLim.intervaly
    if 0 <= low < high / 2:
        axes.set_ylim(bottom=0)


def add_step_tips(axes: Axes, curves: Mapping[str, Points], values: Values) -> None:
    """Show the values of all curves over a strip around every x."""
    texts: dict[float, list[str]] = defaultdict(list)
    for name, points in curves.items():
        for x, y in points:
            texts[x].append(f"{name} {values.text(y)}" if len(curves) > 1 else values.text(y))

    # strips meet halfway between two steps
    low, high = axes.get_xlim()
    half = (high - low) / max(1, len(texts) - 1) / 2
    for x, parts in sorted(texts.items()):
        strip = axes.axvspan(x - half, x + half, color=COLOURS["card"], linewidth=0)
        add_tip(strip, f"{thousands(x)}: {', '.join(parts)}")


def draw_baseline(axes: Axes, places: Sequence[tuple[float, float]]) -> None:
    """Draw a thin dashed line through places."""
    xs, ys = zip(*places, strict=True)
    axes.plot(xs, ys, color=COLOURS["faint"], linewidth=1.2, linestyle=(0, (3, 3)))


def draw_marker(axes: Axes, system: str, x: float, y: float) -> None:
    """Draw the mark of a system."""
    axes.plot(x, y, linestyle="none", color=COLOURS[system], **MARKERS[system])


def draw_score(axes: Axes, system: str, x: float, score: Score, text: str) -> None:
    """Draw the score of a system with its interval upright, and `text` as its tip."""
    axes.vlines(x, score.low, score.high, color=COLOURS[system], alpha=0.45)
    draw_marker(axes, system, x, score.value)
    add_point_tip(axes, x, score.value, text)


def percent_axis(axes: Axes) -> None:
    """Let y run from 0 to 100 %."""
    axes.set_ylim(0, 1)
    axes.set_yticks(QUARTERS, map(whole_percent, QUARTERS))


@page_style
def token_chart(row: ScoreRow, visual_tokens: Mapping[str, int], names: Mapping[str, str]) -> Chart:
    """Draw accuracy against visual tokens, with a line through all that is not trained for it."""
    axes = new_axes(320, 210, left=36, bottom=40)
    percent_axis(axes)

    # the logarithm of tokens + 1, so that no token and many fit one axis
    places: dict[str, float] = {}
    untrained: dict[float, float] = {}
    for system, score in row.scores.items():
        places[system] = place = math.log2(1 + visual_tokens[system])
        # the better one where two systems read equally many
        if system != COMPRESSED:
            untrained[place] = max(score.value, untrained.get(place, 0))
    if untrained:
        draw_baseline(axes, sorted(untrained.items()))

    # the compressor last, above the others
    for system, score in reversed(row.scores.items()):
        text = f"{names[system]}: {percent(score.value)} [{interval(score.low, score.high)}]"
        draw_score(axes, system, places[system], score, text)

    # systems that read equally many share a tick
    ticks = {place: str(visual_tokens[system]) for system, place in places.items()}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlabel("visual tokens")
    axes.margins(x=0.06)
    return Chart(row.label, inline_svg(axes, f"{row.label}: accuracy against visual tokens"))


def bar_axes(
    labels: Sequence[str], width: float, left: float, right: float, bottom: float = 0
) -> Axes:
    """Return axes with a named lane for every bar, the first on top."""
    axes = new_axes(width, LANE * len(labels) + 12 + bottom, left, bottom, right)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks(range(len(labels)), labels, fontsize=13)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    return axes


def write_value(axes: Axes, x: float, y: float, text: str) -> None:
    """Write the value of a bar to the right of (x, y)."""
    label = axes.annotate(text, (x, y), (8, 0), textcoords="offset points", va="center")
    label.set(color=COLOURS["ink"], weight="bold", fontsize=13)


@page_style
def recall_chart(title: str, rows: Sequence[RecallRow]) -> Chart:
    """Draw recall among the first k as bars from 0 to 100 %, with intervals and chance."""
    axes = bar_axes([f"top {row.k}" for row in rows], 420, left=58, right=60)
    axes.set_xlim(0, 1)

    # a track, a bar on it, and over both the interval and chance
    for y, (_, score, chance) in enumerate(rows):
        axes.barh(y, 1, 0.5, color=COLOURS["grid"])
        axes.barh(y, score.value, 0.5, color=COLOURS["compressed"])
        axes.hlines(y, score.low, score.high, color=COLOURS["ink"], alpha=0.75, linewidth=1.4)
        axes.vlines(chance, y - 0.35, y + 0.35, color=COLOURS["soft"], linewidth=1.6)
        write_value(axes, 1, y, percent(score.value))

        exact = f"{percent(score.value)} [{interval(score.low, score.high)}]"
        lane = axes.axhspan(y - 0.5, y + 0.5, color=COLOURS["card"])
        add_tip(lane, f"{exact}, by chance {percent(chance)}")

    num_queries = f"{count(rows[0].score.total)} queries"
    return Chart(title, inline_svg(axes, f"{title}: recall"), num_queries)


@page_style
def size_chart(sizes: Mapping[str, tuple[float, str]]) -> Chart:
    """Draw bytes as bars: label -> (bytes, name of a colour)."""
    axes = bar_axes(list(sizes), 460, left=136, right=74)
    for y, (size, colour) in enumerate(sizes.values()):
        axes.barh(y, size, 0.62, color=COLOURS[colour])
        write_value(axes, size, y, data_size(size))

    axes.set_xlim(left=0)
    axes.margins(x=0)
    return Chart("Bytes per picture", inline_svg(axes, "Bytes per picture"))
