import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.training.negatives import hard_negative

GROUPS = (("red", "green", "blue"), ("left", "right"))


def all_of(caption: str) -> set[str | None]:
    return {
        hard_negative(caption, GROUPS, (), None, np.random.default_rng(seed)) for seed in range(60)
    }


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red dot and a blue star", {"a blue dot and a red star"}),
        ("a red dot.", {"a green dot.", "a blue dot."}),
        (
            "Red, left of the other",
            {"green, left of the other", "blue, left of the other", "Red, right of the other"},
        ),
        (
            "a red dot, red",
            {"a green dot, red", "a blue dot, red", "a red dot, green", "a red dot, blue"},
        ),
        ("a dot", {None}),
        ("", {None}),
    ],
)
def test_words_of_a_group_change_places_or_are_replaced(
    caption: str, expected: set[str | None]
) -> None:
    assert all_of(caption) == expected


@given(st.text(alphabet="red lft,.", max_size=40), st.integers(0, 9))
def test_a_negative_is_another_caption(caption: str, seed: int) -> None:
    negative = hard_negative(caption, GROUPS, (), None, np.random.default_rng(seed))
    assert negative is None or negative != caption


def test_a_change_that_is_true_is_never_the_result() -> None:
    known = ["a green dot", "a blue dot"]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert hard_negative("a red dot", GROUPS, known, None, rng) is None
        assert hard_negative("a red dot", GROUPS, known[:1], None, rng) == "a blue dot"


def test_a_change_that_is_true_of_nothing_is_never_the_result() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert hard_negative("a red dot", GROUPS, (), {"a blue dot"}, rng) == "a blue dot"
        assert hard_negative("a red dot", GROUPS, (), {"a dot"}, rng) is None


def test_each_group_is_as_likely_as_any_other() -> None:
    groups = (("red", "green", "blue", "yellow", "purple"), ("left", "right"))
    made = [
        hard_negative("red, left", groups, (), None, np.random.default_rng(seed))
        for seed in range(400)
    ]
    share = made.count("red, right") / len(made)
    assert share == pytest.approx(0.5, abs=0.1)  # of the six changes one


def test_a_word_of_another_text_about_the_picture_comes_first() -> None:
    known = ["a red dot", "a large blue star"]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert hard_negative("a red dot", GROUPS, known, None, rng) == "a blue dot"
        plausible = {"a green dot"}  # that one is true of nothing
        assert hard_negative("a red dot", GROUPS, known, plausible, rng) == "a green dot"
