"""Where marks stand, and that they say what can be stored without a colour."""

import itertools
import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.reporting.method_charts import (
    HEIGHT,
    RADIUS,
    WIDTH,
    LegendEntry,
    method_charts,
    method_legend,
    side_by_side,
)
from components.reporting.methods_section import group_runs
from components.reporting.plots import Chart
from tests.components.reporting.drawings import read_drawing
from tests.components.reporting.test_methods_section import runs

GROUPS = group_runs(runs())


def numbers(chart: Chart) -> list[int]:
    """Return the numbers in marks, in order of drawing."""
    texts = ElementTree.fromstring(chart.svg).iter("text")
    return [int(text.text or "") for text in texts if text.get("font-weight")]


def test_every_method_has_a_number_and_a_filled_or_a_hollow_mark() -> None:
    assert method_legend(GROUPS) == [
        LegendEntry(1, is_own=False, is_stored=False, label="all image tokens"),
        LegendEntry(2, is_own=False, is_stored=True, label="downsampled picture"),
        LegendEntry(3, is_own=False, is_stored=True, label="STF"),
        LegendEntry(4, is_own=False, is_stored=True, label="E5-V"),
        LegendEntry(5, is_own=False, is_stored=False, label="FastV"),
    ]
    marks = read_drawing(method_charts(GROUPS)[0].svg).marks
    assert [len(marks[colour]) for colour in ("var(--card)", "var(--uncompressed)")] == [2, 2]


def test_charts_show_who_has_both_a_score_and_a_cost() -> None:
    assert {chart.title: numbers(chart) for chart in method_charts(GROUPS)} == {
        "Short answers against visual tokens": [1, 2, 3, 5],
        "Short answers against stored bytes": [2, 3],
        "Short answers against operations per later question": [1, 2, 3, 5],
        "Recall at 1, text to picture, against visual tokens": [3, 4, 5],
        "Recall at 1, text to picture, against stored bytes": [3, 4],
    }
    assert method_charts([]) == []


def test_who_finds_next_to_nothing_is_named_and_has_no_mark() -> None:
    found = runs()
    key = "retrieval.text_to_image.recall_at_1"
    lost = found[-2].scores[key].model_copy(update={"value": 0.002, "low": 0.0, "high": 0.004})
    found[-2] = found[-2].model_copy(update={"scores": found[-2].scores | {key: lost}})
    charts = method_charts(group_runs(found))
    assert [numbers(chart) for chart in charts[-2:]] == [[3, 5], [3]]
    remark = "Less than 1%, not drawn: 4."
    assert [chart.remark for chart in charts] == ["", "", "", remark, remark]


def test_more_tokens_stand_further_right_and_better_scores_higher() -> None:
    drawing = read_drawing(method_charts(GROUPS)[0].svg)
    base, small, stf, fastv = drawing.tips.values()
    assert stf[0] < fastv[0] < base[0]
    for mark, tick in ((fastv, "9"), (base, "36")):  # 4 is the number of a mark as well
        assert mark[0] == pytest.approx(drawing.texts[tick][0], abs=0.1)
    # 90 %, 80 %, 70 %, and 40 % without a picture
    ((floor, _),) = drawing.lines["var(--faint)"][:1]
    assert base[1] < fastv[1] < stf[1] < small[1] < floor[1]
    assert "STF, 4 tokens: 70.0% (60.0% … 80.0%)" in drawing.tips


def test_a_bar_reaches_from_the_lowest_to_the_highest_seed_and_one_seed_has_none() -> None:
    drawing = read_drawing(method_charts(GROUPS)[0].svg)
    base, _, stf, _ = drawing.tips.values()
    _, (lowest, highest) = drawing.lines["var(--faint)"]  # the first is the base without a picture
    # 60 and 80 % on a scale on which 90 % and 70 % are known
    per_point = (stf[1] - base[1]) / 20
    assert lowest == pytest.approx((stf[0], stf[1] + 10 * per_point), abs=0.1)
    assert highest == pytest.approx((stf[0], stf[1] - 10 * per_point), abs=0.1)


def test_one_method_alone_has_charts_as_well() -> None:
    assert [len(numbers(chart)) for chart in method_charts(GROUPS[3:4])] == [1] * 5


@given(st.lists(st.tuples(st.floats(60, WIDTH - 20), st.floats(20, HEIGHT - 40)), max_size=40))
def test_no_mark_hides_another(wanted: list[tuple[float, float]]) -> None:
    places = side_by_side(wanted)
    assert [y for _, y in places] == [y for _, y in wanted]
    assert all(math.dist(a, b) >= 2 * RADIUS - 1e-9 for a, b in itertools.combinations(places, 2))
    assert all(RADIUS <= x <= WIDTH - RADIUS for x, _ in places)
