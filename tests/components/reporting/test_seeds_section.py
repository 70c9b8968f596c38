"""results/seeds.json as a table, against values worked out by hand."""

from pathlib import Path

import pytest

from components.reporting.seeds_section import (
    is_seeds,
    label,
    read_seeds,
    seed_rows,
    seeds_markdown,
)

SEEDS = {
    "short_answers": [0.9, 0.6, 0.75],
    "text_to_image_r1": [0.5, 0.4, 0.6],
    "words": [0.25, 0.5, 0.0],
    "base_short_answers": [0.8, 0.8, 0.8],
    "base_words": [0.0, 0.0, 0.0],
    "base_cider": [3.0, 3.0, 3.0],
}


def test_a_row_has_the_score_the_base_and_the_share_that_is_kept() -> None:
    answers, search, words, cider = seed_rows(SEEDS)
    assert answers.score == pytest.approx((0.75, 0.6, 0.9, 3))
    assert answers.base == pytest.approx(0.8)
    # 112.5, 75 and 93.75 %
    assert answers.kept == pytest.approx((0.9375, 0.75, 1.125, 3))
    assert (search.base, search.kept) == (None, None)
    # of nothing no share can be kept
    assert (words.base, words.kept) == (0.0, None)
    # a score that only the base has is not lost
    assert cider.label == "base CIDEr"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("short_answers", "short answers"),
        ("text_to_image_r1", "text to image R@1"),
        ("two_object_p10", "two object P@10"),
        ("cider", "CIDEr"),
    ],
)
def test_a_score_has_a_name_that_people_read(name: str, text: str) -> None:
    assert label(name) == text


def test_the_table_says_how_many_seeds_and_what_the_worst_keeps() -> None:
    assert seeds_markdown(seed_rows(SEEDS)).splitlines() == [
        "| 3 seeds | mean (lowest … highest) | base | kept, mean | kept, worst |",
        "|---|---|---|---|---|",
        "| short answers | 0.750 (0.600 … 0.900) | 0.800 | 93.8 % | 75.0 % |",
        "| text to image R@1 | 0.500 (0.400 … 0.600) | – | – | – |",
        "| words | 0.250 (0.000 … 0.500) | 0.000 | – | – |",
        "| base CIDEr | 3.000 (3.000 … 3.000) | – | – | – |",
    ]
    with pytest.raises(ValueError, match="make seeds"):
        seeds_markdown([])


@pytest.mark.parametrize(
    ("text", "is_ours"),
    [
        ("{}", True),
        ('{"words": [0.5, 1, 0.25]}', True),
        ('{"words": [0.5], "cider": [0.5, 0.25]}', False),
        ('{"words": []}', False),
        ('{"words": 0.5}', False),
        ('{"rows": [{}]}', False),
        ("{", False),
    ],
)
def test_a_file_is_one_list_per_score_of_the_same_seeds(
    text: str, is_ours: bool, tmp_path: Path
) -> None:
    (tmp_path / "seeds.json").write_text(text)
    assert is_seeds(tmp_path / "seeds.json") == is_ours


def test_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert seed_rows(read_seeds(tmp_path / "seeds.json")) == []
