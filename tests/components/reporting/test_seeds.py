"""The spread over seeds, against values worked out by hand."""

import pytest

from components.reporting.seeds import spread
from components.reporting.wording import percent, score


def test_three_seeds_have_a_mean_a_lowest_and_a_highest() -> None:
    found = spread([0.927, 0.881, 0.904])
    assert found == pytest.approx((0.904, 0.881, 0.927, 3))
    assert found.text(score) == "0.904 (0.881 … 0.927)"
    assert found.text(percent) == "90.4% (88.1% … 92.7%)"


def test_a_single_seed_stands_alone() -> None:
    assert spread([0.5]).text(score) == "0.500"
