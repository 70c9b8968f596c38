"""Further texts of a picture: how they are drawn."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from components.training.collate import TrainSample
from components.training.phrases import draw_phrases, with_phrases
from tests.components.training.world import LENGTHS

WORDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(" ".join)


@given(st.lists(WORDS, unique=True), st.integers(0, 5), st.integers(0, 9))
def test_as_many_as_wanted_or_all_and_none_twice(phrases: list[str], count: int, seed: int) -> None:
    drawn = draw_phrases(phrases, count, np.random.default_rng(seed))
    assert len(drawn) == len(set(drawn)) == min(count, len(phrases))
    assert set(drawn) <= set(phrases)


def test_each_length_is_as_likely_as_any_other() -> None:
    phrases = ["one", *[f"two {number}" for number in range(9)]]
    rng = np.random.default_rng(0)
    lengths = Counter(len(draw_phrases(phrases, 1, rng)[0].split()) for _ in range(2000))
    assert 0.46 < lengths[1] / 2000 < 0.54


def test_wrong_texts_are_made_of_phrases_where_these_are_read() -> None:
    sample = TrainSample(
        "s", None, [], "a red dot and a blue star", None, ["a red dot", "a blue star"]
    )
    groups = {"hard_negatives": (("red", "blue"), ("dot", "star"))}
    rng = np.random.default_rng(0)

    alone = with_phrases(sample, LENGTHS.model_copy(update=groups), (), rng)
    assert alone.phrases == []
    assert alone.hard_negatives[0] in ("a blue dot and a red star", "a red star and a blue dot")

    both = LENGTHS.model_copy(update=groups | {"phrases_per_caption": 2})
    plausible = {"a blue dot", "a red star", "a red dot", "a blue star"}
    for _ in range(20):
        beside = with_phrases(sample, both, plausible, rng)
        assert sorted(beside.phrases) == ["a blue star", "a red dot"]
        for phrase, wrong in zip(beside.phrases, beside.hard_negatives, strict=True):
            assert wrong not in (None, phrase, *sample.known_phrases)
            assert wrong in plausible


def test_a_sample_without_caption_has_no_texts() -> None:
    sample = TrainSample("s", None, [], None, None, ["a red dot"])
    texts = LENGTHS.model_copy(update={"phrases_per_caption": 1})
    assert with_phrases(sample, texts, (), np.random.default_rng(0)) == sample
