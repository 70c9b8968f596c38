"""Where marks stand, and that they say what can be stored without a colour."""

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from components.reporting.method_charts import (
    HEIGHT,
    RADIUS,
    WIDTH,
    method_charts,
    method_legend,
    side_by_side,
)
from components.reporting.methods_section import group_runs
from tests.components.reporting.test_methods_section import runs

GROUPS = group_runs(runs())


def test_every_method_has_a_number_and_a_filled_or_a_hollow_mark() -> None:
    found = {entry.label: (entry.number, entry.style) for entry in method_legend(GROUPS)}
    assert found == {
        "all image tokens": (1, "other unstored"),
        "STF": (2, "other stored"),
        "E5-V": (3, "other stored"),
        "FastV": (4, "other unstored"),
    }


def test_charts_show_who_has_both_a_score_and_a_cost() -> None:
    shown = {chart.title: [mark.number for mark in chart.marks] for chart in method_charts(GROUPS)}
    assert shown == {
        "Short answers against visual tokens": [1, 2, 4],
        "Short answers against stored bytes": [2],
        "Short answers against operations per later question": [1, 2, 4],
        "Recall at 1, text to picture, against visual tokens": [2, 3, 4],
        "Recall at 1, text to picture, against stored bytes": [2, 3],
    }
    assert method_charts([]) == []


def test_who_finds_next_to_nothing_is_named_and_has_no_mark() -> None:
    found = runs()
    key = "retrieval.text_to_image.recall_at_1"
    lost = found[-2].scores[key].model_copy(update={"value": 0.002, "low": 0.0, "high": 0.004})
    found[-2] = found[-2].model_copy(update={"scores": found[-2].scores | {key: lost}})
    charts = method_charts(group_runs(found))
    assert [([mark.number for mark in chart.marks], chart.below) for chart in charts[-2:]] == [
        ([2, 4], [3]),
        ([2], [3]),
    ]
    assert all(not chart.below for chart in charts[:-2])


def test_more_tokens_stand_further_right_and_better_scores_higher() -> None:
    chart = method_charts(GROUPS)[0]
    base, stf, fastv = chart.marks
    assert stf.x < fastv.x < base.x
    # 90 %, 80 %, 70 %, and 40 % without a picture
    assert base.y < fastv.y < stf.y < (chart.floor or 0)
    assert base.high < base.y < base.low
    assert stf.tip.text == "STF, 4 tokens: 70.0% ± 127.1"


def test_one_method_alone_has_charts_as_well() -> None:
    assert [len(chart.marks) for chart in method_charts(GROUPS[2:3])] == [1] * 5


@given(st.lists(st.tuples(st.floats(60, WIDTH - 20), st.floats(20, HEIGHT - 40)), max_size=40))
def test_no_mark_hides_another(wanted: list[tuple[float, float]]) -> None:
    places = side_by_side(wanted)
    assert [y for _, y in places] == [y for _, y in wanted]
    assert all(math.dist(a, b) >= 2 * RADIUS - 1e-9 for a, b in itertools.combinations(places, 2))
    assert all(RADIUS <= x <= WIDTH - RADIUS for x, _ in places)
