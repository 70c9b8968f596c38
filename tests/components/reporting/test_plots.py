"""Charts: marks where the numbers say, and no mark outside its frame."""

import re

import pytest

from components.reporting import metric_tables as tables
from components.reporting import plots
from tests.components.reporting.results import TOKENS, metrics

NAMES = {system: system for system in tables.SYSTEMS}
ROW = tables.score_rows(metrics())[0]


def path_points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](\S+) (\S+)", path)]


def test_line_runs_through_the_points_inside_the_frame() -> None:
    chart = plots.line_chart(
        "loss", {"loss": [(0, 4.0), (10, 2.0), (20, 1.0)]}, plots.NUMBERS, (320, 190)
    )
    left, top, right, bottom = chart.frame
    points = path_points(chart.lines[0].path)
    assert [x for x, _ in points] == [left, (left + right) / 2, right]
    assert all(top <= y <= bottom for _, y in points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # down is less
    assert (chart.lines[0].last, chart.lines[0].end) == ("1", points[-1])
    assert [tip.text for tip in chart.tips] == ["0: 4", "10: 2", "20: 1"]


def test_shares_have_the_whole_axis_and_tips_name_both_curves() -> None:
    curves = {"there": [(0.0, 0.5)], "back": [(0.0, 1.0)]}
    chart = plots.line_chart("recall", curves, plots.SHARES, (320, 190))
    assert {tick.text for tick in chart.y_ticks} >= {"0%", "50%", "100%"}
    assert chart.tips[0].text == "0: there 50.0%, back 100.0%"


def test_token_chart_orders_systems_by_tokens_and_joins_those_that_are_not_trained() -> None:
    chart = plots.token_chart(ROW, TOKENS, NAMES)
    x = {mark.system: mark.x for mark in chart.marks}
    assert x["blind"] < x["compressed"] == x["average_pooled"] < x["uncompressed"]
    y = {mark.system: mark.y for mark in chart.marks}
    assert y["uncompressed"] < y["compressed"] < y["average_pooled"] < y["blind"]  # up is better
    assert path_points(chart.path) == [
        (x[name], y[name]) for name in ("blind", "average_pooled", "uncompressed")
    ]
    assert [tick.text for tick in chart.x_ticks] == ["0", "4", "36"]


def test_intervals_stand_around_their_score() -> None:
    marks = plots.interval_chart(ROW, NAMES).marks
    assert [mark.system for mark in marks] == list(tables.SYSTEMS)
    assert all(mark.low < mark.x < mark.high for mark in marks)
    assert marks[0].tip.text == "compressed: 80.0% [70.0–90.0]"
    assert len({mark.y for mark in marks}) == len(marks)


def test_recall_bars_grow_with_the_recall() -> None:
    rows = tables.recall_rows(metrics()["compressed"]["retrieval"]["text_to_image"], 10, 1)
    chart = plots.recall_chart(rows)
    assert [bar.label for bar in chart.bars] == ["top 1", "top 5", "top 10"]
    lengths = [bar.end - chart.left for bar in chart.bars]
    assert lengths[0] / lengths[2] == pytest.approx(0.5, abs=0.01)
    assert lengths[1] / lengths[2] == pytest.approx(0.75, abs=0.01)
