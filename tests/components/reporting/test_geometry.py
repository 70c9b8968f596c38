"""Positions and ticks, against what a ruler would say."""

import pytest

from components.reporting.geometry import Axis, bar_widths, padded, ticks, tip


def test_axis_puts_its_ends_and_middle_where_they_belong() -> None:
    axis = Axis(0, 200, 190, 10)  # the y of a chart runs downwards
    assert [axis.at(value) for value in (0, 100, 200)] == [190, 100, 10]


def test_axis_without_length_puts_everything_in_the_middle() -> None:
    assert Axis(3, 3, 0, 10).at(3) == 5


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (20, 1200, [250, 500, 750, 1000]),
        (0.2, 1.7, [0.5, 1, 1.5]),
        (5, 5, [5]),
        (-3, 3, [-2, 0, 2]),
    ],
)
def test_ticks_are_round_numbers_inside_the_range(
    low: float, high: float, wanted: list[float]
) -> None:
    assert ticks(low, high, 4) == wanted


@pytest.mark.parametrize(("low", "high"), [(0.3, 1.6), (90, 100), (-4, 2), (7, 7), (0, 0)])
def test_padding_contains_the_numbers_with_room(low: float, high: float) -> None:
    bottom, top = padded(low, high)
    assert bottom <= low
    assert high < top


def test_padding_begins_at_zero_when_that_is_near() -> None:
    assert padded(0.3, 1.6)[0] == 0
    assert padded(90, 100)[0] > 80


def test_bars_are_in_proportion_and_nothing_has_no_bar() -> None:
    assert bar_widths([9216, 4608, 1, 0], 200) == [200, 100, 1, 0]
    assert bar_widths([0, 0], 200) == [0, 0]


@pytest.mark.parametrize("x", [0.0, 100.0, 200.0])
def test_tip_stays_inside_the_chart(x: float) -> None:
    shown = tip(x, 100, "step 20: 1.5", width=200)
    assert shown.left >= 0
    assert shown.left + shown.width <= 200
    assert shown.top + 17 < 100


def test_tip_goes_below_a_point_at_the_top() -> None:
    assert tip(50, 4, "1", width=200).top > 4
