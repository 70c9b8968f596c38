"""Charts: marks where the numbers say, with their exact values as tips."""

import pytest

from components.reporting import metric_tables as tables
from components.reporting import plots
from components.reporting.inline_svg import new_axes
from tests.components.reporting.drawings import read_drawing
from tests.components.reporting.results import TOKENS, metrics

NAMES = {system: system for system in tables.SYSTEMS}
ROW = tables.score_rows(metrics())[0]


def test_line_runs_through_the_points_inside_the_frame() -> None:
    points = [(0.0, 4.0), (10.0, 2.0), (20.0, 1.0)]
    chart = plots.line_chart("loss", {"loss": points}, plots.NUMBERS, (320, 190))
    drawing = read_drawing(chart.svg)
    (line,) = drawing.lines["var(--compressed)"]
    assert [x for x, _ in line] == pytest.approx([40, (40 + 306) / 2, 306], abs=0.1)
    heights = [y for _, y in line]
    assert heights == sorted(heights)  # down is less
    assert heights[2] - heights[1] == pytest.approx((heights[1] - heights[0]) / 2, abs=0.1)
    assert heights[0] > 12
    assert heights[2] < 190 - 24
    assert drawing.marks["var(--compressed)"] == [line[-1]]
    assert (chart.note, chart.lines) == ("1", ())
    assert list(drawing.tips) == ["0: 4", "10: 2", "20: 1"]
    assert {"0", "2", "4", "10", "20"} <= drawing.texts.keys()


def test_shares_have_the_whole_axis_and_tips_name_both_curves() -> None:
    curves = {"there": [(0.0, 0.5)], "back": [(0.0, 1.0)]}
    chart = plots.line_chart("recall", curves, plots.SHARES, (320, 190))
    drawing = read_drawing(chart.svg)
    assert {"0%", "20%", "100%"} <= drawing.texts.keys()
    assert list(drawing.tips) == ["0: there 50.0%, back 100.0%"]
    assert (chart.note, chart.lines) == ("50.0% · 100.0%", ("there", "back"))


@pytest.mark.parametrize(
    ("low", "high", "is_near"),
    [(0.3, 1.6, True), (0, 2, True), (90, 100, False), (-0.05, 2, False), (-2, -1, False)],
)
def test_axes_begin_at_zero_when_that_is_near(low: float, high: float, is_near: bool) -> None:
    axes = new_axes(320, 190)
    axes.plot([0, 1], [low, high])
    plots.start_at_zero_if_near(axes)
    bottom, top = axes.get_ylim()
    assert (bottom == 0) == is_near
    assert bottom <= low
    assert high < top


def test_token_chart_orders_systems_by_tokens_and_joins_those_that_are_not_trained() -> None:
    drawing = read_drawing(plots.token_chart(ROW, TOKENS, NAMES).svg)
    places = {tip.split(":")[0]: place for tip, place in drawing.tips.items()}
    x = {system: place[0] for system, place in places.items()}
    y = {system: place[1] for system, place in places.items()}
    assert x["blind"] < x["compressed"] == x["average_pooled"] < x["uncompressed"]
    assert y["uncompressed"] < y["compressed"] < y["average_pooled"] < y["blind"]  # up is better
    (line,) = drawing.lines["var(--faint)"]
    assert line == [places[name] for name in ("blind", "average_pooled", "uncompressed")]
    assert {"0", "4", "36", "visual tokens"} <= drawing.texts.keys()
    assert "compressed: 80.0% [70.0–90.0]" in drawing.tips


def test_intervals_stand_around_their_score() -> None:
    drawing = read_drawing(plots.token_chart(ROW, TOKENS, NAMES).svg)
    for system in ("compressed", "uncompressed", "average_pooled"):
        (whisker,) = drawing.lines[f"var(--{system})"]
        ((x, y),) = drawing.marks[f"var(--{system})"]
        (low, high) = whisker
        assert low[0] == high[0] == x
        assert high[1] < y < low[1]


def test_recall_bars_grow_with_the_recall() -> None:
    recalls = metrics()["compressed"]["retrieval"]["text_to_image"]
    chart = plots.recall_chart("found", tables.recall_rows(recalls, 10, 1))
    drawing = read_drawing(chart.svg)
    assert {"top 1", "top 5", "top 10", "50.0%", "75.0%", "100.0%"} <= drawing.texts.keys()
    lengths = drawing.widths["var(--compressed)"]
    assert lengths[0] / lengths[2] == pytest.approx(0.5, abs=0.01)
    assert lengths[1] / lengths[2] == pytest.approx(0.75, abs=0.01)
    assert "50.0% [40.0–50.0], by chance 10.0%" in drawing.tips
    heights = [drawing.texts[label][1] for label in ("top 1", "top 5", "top 10")]
    assert heights == sorted(heights)
    assert chart.note == "50 queries"


def test_sizes_are_bars_in_proportion() -> None:
    chart = plots.size_chart({"a": (9216, "uncompressed"), "b": (1024, "compressed")})
    drawing = read_drawing(chart.svg)
    (all_tokens,), (few,) = (
        drawing.widths["var(--uncompressed)"],
        drawing.widths["var(--compressed)"],
    )
    assert all_tokens / few == pytest.approx(9, abs=0.05)
    assert {"a", "b", "9 KiB", "1 KiB"} <= drawing.texts.keys()
