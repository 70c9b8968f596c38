"""Scores of all methods against their costs. Filled marks: can be stored; hollow: cannot.

Methods are told apart by a number in their mark, so that nothing depends on colours. Marks that
would hide each other stand beside each other. Methods that score next to nothing are named below
the chart: there are many, and beside each other they would stand far from their costs.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from components.reporting.inline_svg import (
    COLOURS,
    add_point_tip,
    inline_svg,
    new_axes,
    page_style,
)
from components.reporting.methods_section import Group
from components.reporting.metric_tables import BLIND
from components.reporting.plots import Chart, draw_baseline, percent_axis
from components.reporting.wording import data_size, operations, percent

RADIUS = 7.5  # of a mark
WIDTH, HEIGHT, LEFT, RIGHT = 480.0, 300.0, 44.0, 14.0
LOWEST_SCORE = 0.01  # of a mark
ANSWERS, SEARCH = "short_answer", "retrieval.text_to_image.recall_at_1"
Place = tuple[float, float]  # in units of the drawing


class Cost(NamedTuple):
    """A cost of methods, for the logarithmic x axis."""

    label: str
    value: Callable[[Group], float | None]
    text: Callable[[float], str]


TOKENS = Cost("visual tokens per picture", lambda group: group.first.visual_tokens, "{:.0f}".format)
BYTES = Cost("bytes stored per picture", lambda group: group.first.bytes_per_picture, data_size)
FLOPS = Cost(
    "operations per later question", lambda group: group.first.flops_per_question, operations
)
CHARTS = (  # title, score, cost
    ("Short answers against visual tokens", ANSWERS, TOKENS),
    ("Short answers against stored bytes", ANSWERS, BYTES),
    ("Short answers against operations per later question", ANSWERS, FLOPS),
    ("Recall at 1, text to picture, against visual tokens", SEARCH, TOKENS),
    ("Recall at 1, text to picture, against stored bytes", SEARCH, BYTES),
)


class LegendEntry(NamedTuple):
    """A method, whatever its number of tokens."""

    number: int
    is_own: bool
    is_stored: bool
    label: str


def method_legend(groups: Sequence[Group]) -> list[LegendEntry]:
    """Number the methods; the system without a picture is a line and has no number."""
    entries: dict[str, LegendEntry] = {}
    for group in groups:
        if group.first.method != BLIND and group.label not in entries:
            is_own, is_stored = group.first.method == "fwd2bot", group.first.is_stored
            entries[group.label] = LegendEntry(len(entries) + 1, is_own, is_stored, group.label)
    return list(entries.values())


def method_charts(groups: Sequence[Group]) -> list[Chart]:
    """Draw every one of CHARTS that has anything to show."""
    legend = {entry.label: entry for entry in method_legend(groups)}
    charts = []
    for title, key, cost in CHARTS:
        floor, shown, below = None, [], set()
        for group in groups:
            if key not in group.scores:
                continue

            # a line without a picture, marks, and numbers of methods too low for a mark
            value, mean = cost.value(group), group.scores[key].mean
            if group.first.method == BLIND:
                floor = mean
            elif value and mean >= LOWEST_SCORE:
                shown.append((group, value))
            elif value:
                below.add(legend[group.label].number)

        # methods without such costs, or without any score of note, make no chart
        if shown:
            chart = method_chart(title, key, cost, shown, legend, floor)
            numbers = ", ".join(map(str, sorted(below)))
            remark = f"Less than 1%, not drawn: {numbers}." if below else ""
            charts.append(chart._replace(remark=remark))
    return charts


@page_style
def method_chart(
    title: str,
    key: str,
    cost: Cost,
    shown: Sequence[tuple[Group, float]],
    legend: dict[str, LegendEntry],
    floor: float | None,
) -> Chart:
    """Draw methods with their costs; `floor` is the score without a picture, where it is known."""
    axes = new_axes(WIDTH, HEIGHT, LEFT, bottom=40, right=RIGHT)
    percent_axis(axes)

    # ticks before marks, which need to know where they stand
    drawn, values = zip(*shown, strict=True)
    axes.set_xscale("log", base=2)
    room = max(1.05, (max(values) / min(values)) ** 0.125)
    axes.set_xlim(min(values) / room, max(values) * room)
    ticks = sparse(values)
    axes.set_xticks(ticks, map(cost.text, ticks))
    axes.set_xticks([], minor=True)
    axes.set_xlabel(cost.label)

    if floor is not None:
        low, high = axes.get_xlim()
        draw_baseline(axes, [(low, floor), (high, floor)])

    # free places are looked for in units of the drawing
    wanted = [(value, group.scores[key].mean) for group, value in shown]
    free = side_by_side(axes.transData.transform(wanted).tolist())
    places = axes.transData.inverted().transform(free).tolist()

    for group, (x, y) in zip(drawn, places, strict=True):
        score = group.scores[key]
        if score.num_seeds > 1:
            axes.vlines(x, score.lowest, score.highest, color=COLOURS["faint"], linewidth=1.6)
        draw_mark(axes, x, y, legend[group.label])
        add_point_tip(axes, x, y, f"{group.name}: {score.text(percent)}")
    return Chart(title, inline_svg(axes, title))


def draw_mark(axes: Axes, x: float, y: float, entry: LegendEntry) -> None:
    """Draw a numbered disc, filled if the tokens of the method can be stored."""
    colour = COLOURS["compressed" if entry.is_own else "uncompressed"]

    # the number is readable on both
    fill, ink = (colour, "card") if entry.is_stored else (COLOURS["card"], "ink")
    axes.plot(x, y, "o", markersize=14, color=colour, markerfacecolor=fill, markeredgewidth=1.6)
    number = axes.text(x, y, str(entry.number), ha="center", va="center_baseline")
    number.set(color=COLOURS[ink], fontsize=8.5, weight="bold")


def side_by_side(wanted: Iterable[Sequence[float]]) -> list[Place]:
    """Return places near the wanted ones, moved along x until no mark hides another."""
    taken: list[Place] = []
    for x, y in wanted:
        free = filter(lambda place: is_free(place, taken), nearby(x, y))
        taken.append(next(free, (x, y)))
    return taken


def nearby(x: float, y: float) -> Iterator[Place]:
    """Yield places inside the chart, the nearest first."""
    for step in range(0, 200, 2):
        for moved in (x + step, x - step):
            if LEFT + RADIUS <= moved <= WIDTH - RADIUS:
                yield moved, y


def is_free(place: Place, taken: Sequence[Place]) -> bool:
    """Return whether a mark hides no other one there."""
    return all(math.dist(place, other) >= 2 * RADIUS for other in taken)


def sparse(values: Iterable[float]) -> list[float]:
    """Return the different costs, less the ones whose ticks would overlap a smaller cost's."""
    kept: list[float] = []
    for value in sorted(set(values)):
        if not kept or value > 1.25 * kept[-1]:
            kept.append(value)
    return kept
