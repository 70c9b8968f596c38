"""Scores of all methods against what they cost, as positions on a chart. Filled: can be stored; hollow: cannot.

Methods are told apart by a number in their mark, so that nothing depends on colours. Marks that
would hide each other stand beside each other. Those that score next to nothing are named below the
chart: so many beside each other would stand far from their costs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from components.reporting.geometry import Axis, Tick, Tip, tip
from components.reporting.methods_section import Group
from components.reporting.metric_tables import BLIND
from components.reporting.wording import data_size, operations, percent, whole_percent

RADIUS = 7.5  # of a mark
WIDTH, HEIGHT = 480.0, 300.0
LOWEST_SCORE = 0.01  # of a mark
ANSWERS, SEARCH = "short_answer", "retrieval.text_to_image.recall_at_1"


class Against(NamedTuple):
    """What stands on the x axis, on a logarithmic scale."""

    label: str
    value: Callable[[Group], float | None]
    text: Callable[[float], str]


TOKENS = Against(
    "visual tokens per picture", lambda group: group.first.visual_tokens, "{:.0f}".format
)
BYTES = Against("bytes stored per picture", lambda group: group.first.bytes_per_picture, data_size)
FLOPS = Against(
    "operations per later question", lambda group: group.first.flops_per_question, operations
)
CHARTS = (  # title, score, what it is shown against
    ("Short answers against visual tokens", ANSWERS, TOKENS),
    ("Short answers against stored bytes", ANSWERS, BYTES),
    ("Short answers against operations per later question", ANSWERS, FLOPS),
    ("Recall at 1, text to picture, against visual tokens", SEARCH, TOKENS),
    ("Recall at 1, text to picture, against stored bytes", SEARCH, BYTES),
)


class MethodMark(NamedTuple):
    """A method: its mean over seeds, and how far the intervals of its runs reach."""

    number: int
    style: str
    x: float
    y: float
    low: float
    high: float
    tip: Tip


class LegendEntry(NamedTuple):
    number: int
    style: str
    label: str


class MethodChart(NamedTuple):
    """A score of all methods against a cost."""

    title: str
    x_label: str
    width: float
    height: float
    frame: tuple[float, float, float, float]  # left, top, right, bottom
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    floor: float | None  # y of the score without the picture
    marks: list[MethodMark]
    below: list[int]  # numbers of methods with a score under LOWEST_SCORE, which has no mark


def method_legend(groups: Sequence[Group]) -> list[LegendEntry]:
    """A number for every method, whatever its tokens; the system without a picture is a line and has none."""
    found: dict[str, LegendEntry] = {}
    for group in groups:
        if group.first.method != BLIND and group.label not in found:
            found[group.label] = LegendEntry(len(found) + 1, style(group), group.label)
    return list(found.values())


def style(group: Group) -> str:
    """Classes of a mark: whose it is, and whether it can be stored."""
    whose = "own" if group.first.method == "fwd2bot" else "other"
    return f"{whose} {'stored' if group.first.is_stored else 'unstored'}"


def method_charts(groups: Sequence[Group]) -> list[MethodChart]:
    """Those that have anything to show."""
    numbers = {entry.label: entry.number for entry in method_legend(groups)}
    charts = []
    for title, key, against in CHARTS:
        scored = [
            (group, float(value))
            for group in groups
            if group.label in numbers and key in group.scores and (value := against.value(group))
        ]
        shown = [(group, cost) for group, cost in scored if group.scores[key].mean >= LOWEST_SCORE]
        if shown:
            floor = next((group.scores[key].mean for group in groups if is_blind(group, key)), None)
            below = sorted(
                {
                    numbers[group.label]
                    for group, _ in scored
                    if group.scores[key].mean < LOWEST_SCORE
                }
            )
            charts.append(method_chart(title, key, against, shown, numbers, floor, below))
    return charts


def is_blind(group: Group, key: str) -> bool:
    return group.first.method == BLIND and key in group.scores


def method_chart(
    title: str,
    key: str,
    against: Against,
    shown: Sequence[tuple[Group, float]],
    numbers: dict[str, int],
    floor: float | None,
    below: list[int],
) -> MethodChart:
    """`shown` are methods with their costs, `numbers` those of the legend, `floor` the score without a picture.

    `below` are the numbers of those without a mark.
    """
    frame = (44.0, 14.0, WIDTH - 14, HEIGHT - 38)
    costs = [math.log2(value) for _, value in shown]
    x_axis = Axis(min(costs), max(costs), frame[0] + 40, frame[2] - 40)
    y_axis = Axis(0, 1, frame[3], frame[1])
    wanted = [
        (x_axis.at(cost), y_axis.at(group.scores[key].mean))
        for (group, _), cost in zip(shown, costs, strict=True)
    ]
    marks = [
        to_mark(group, key, numbers[group.label], place, y_axis)
        for (group, _), place in zip(shown, side_by_side(wanted), strict=True)
    ]
    return MethodChart(
        title,
        against.label,
        WIDTH,
        HEIGHT,
        frame,
        [
            Tick(x_axis.at(math.log2(value)), against.text(value))
            for value in sparse(value for _, value in shown)
        ],
        [Tick(y_axis.at(y), whole_percent(y)) for y in (0, 0.25, 0.5, 0.75, 1)],
        None if floor is None else y_axis.at(floor),
        marks,
        below,
    )


def to_mark(
    group: Group, key: str, number: int, place: tuple[float, float], y_axis: Axis
) -> MethodMark:
    """The mark of a method, at a place that is free."""
    low, high = group.reach(key)
    mean, half = group.scores[key]
    text = f"{group.name}: {percent(mean)}" + (f" ± {100 * half:.1f}" if half is not None else "")
    return MethodMark(
        number, style(group), *place, y_axis.at(low), y_axis.at(high), tip(*place, text, WIDTH)
    )


def side_by_side(wanted: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Places near the wanted ones, moved along x as little as it takes for no mark to hide another."""
    taken: list[tuple[float, float]] = []
    for x, y in wanted:
        taken.append(next((place for place in nearby(x, y) if is_free(place, taken)), (x, y)))
    return taken


def nearby(x: float, y: float) -> Iterator[tuple[float, float]]:
    """Places inside the chart, the nearest first."""
    for step in range(0, 200, 2):
        for moved in (x + step, x - step):
            if 44 + RADIUS <= moved <= WIDTH - RADIUS:
                yield round(moved, 1), y


def is_free(place: tuple[float, float], taken: Sequence[tuple[float, float]]) -> bool:
    return all(math.dist(place, other) >= 2 * RADIUS for other in taken)


def sparse(values: Iterator[float]) -> list[float]:
    """The different costs, but for those within a quarter of a smaller one: their ticks would run into each other."""
    kept: list[float] = []
    for value in sorted(set(values)):
        if not kept or value > 1.25 * kept[-1]:
            kept.append(value)
    return kept
