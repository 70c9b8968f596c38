import itertools
import math
from collections import Counter

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from components.evaluation.captioning import (
    bleu_counts,
    bleu_from_sums,
    caption_estimates,
    caption_words,
    cider_scores,
    rouge_scores,
)
from components.evaluation.intervals import BootstrapParams

PARAMS = BootstrapParams(resamples=50, confidence=0.95, seed=0)
CAPTIONS = [
    "a red circle above a blue square",
    "a green star",
    "two small triangles on the left side",
    "",
]
REFERENCES = [
    [
        "a red circle is above a blue square",
        "the blue square is below a red circle",
        "red circle and blue square",
    ],
    ["a green star in the middle of the picture", "one large green star"],
    ["two small triangles", "there are two triangles on the left"],
    ["an empty field", "nothing at all"],
]


def as_pycocoevalcap() -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    return dict(enumerate(REFERENCES)), {index: [caption] for index, caption in enumerate(CAPTIONS)}


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A red circle, above a blue square.", "a red circle above a blue square"),
        ("don't\r\nstop\u2028now", "don't stop now"),
        ("'quoted' (twice) - 3 x-rays", "quoted twice 3 x rays"),
        ("snake_case", "snake case"),
        ("...", ""),
    ],
)
def test_caption_words(caption: str, words: str) -> None:
    assert caption_words(caption) == words


def test_scores_equal_pycocoevalcaps_own() -> None:
    truths, results = as_pycocoevalcap()
    bleu, _ = Bleu(4).compute_score(truths, results, verbose=0)
    estimates = caption_estimates([f"p{i}" for i in range(4)], CAPTIONS, REFERENCES, PARAMS)
    assert estimates["cider"].value == pytest.approx(Cider().compute_score(truths, results)[0])
    assert estimates["bleu_4"].value == pytest.approx(bleu[3])
    assert estimates["rouge_l"].value == pytest.approx(Rouge().compute_score(truths, results)[0])
    assert {estimate.count for estimate in estimates.values()} == {4}


def grams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def weighted_grams(text: str, n: int, corpus: list[list[str]]) -> dict[tuple[str, ...], float]:
    frequency = Counter(
        gram for row in corpus for gram in set().union(*(grams(other, n) for other in row))
    )
    return {
        g: c * (math.log(len(corpus)) - math.log(max(1, frequency[g])))
        for g, c in grams(text, n).items()
    }


def cider_by_definition(caption: str, references: list[str], corpus: list[list[str]]) -> float:
    """CIDEr-D of one picture, written from the formula."""
    total = 0.0
    for n, reference in itertools.product(range(1, 5), references):
        ours, theirs = weighted_grams(caption, n, corpus), weighted_grams(reference, n, corpus)
        norm = math.sqrt(sum(v * v for v in ours.values()) * sum(v * v for v in theirs.values()))
        shared = sum(min(v, theirs[g]) * theirs[g] for g, v in ours.items() if g in theirs)
        gap = sum(grams(caption, 2).values()) - sum(grams(reference, 2).values())
        total += (shared / norm if norm else 0.0) * math.exp(-(gap**2) / 72)
    return 10 * total / (4 * len(references))


def test_cider_equals_its_formula() -> None:
    expected = [
        cider_by_definition(caption, row, REFERENCES)
        for caption, row in zip(CAPTIONS, REFERENCES, strict=True)
    ]
    assert cider_scores(CAPTIONS, REFERENCES) == pytest.approx(expected)


def test_the_reference_itself_is_perfect() -> None:
    captions = [row[0] for row in REFERENCES[:3]]
    assert bleu_from_sums(bleu_counts(captions, REFERENCES[:3]).sum(axis=0)) == pytest.approx(
        1.0, abs=1e-6
    )
    assert rouge_scores(captions, REFERENCES[:3]) == pytest.approx([1.0] * 3)


def test_an_empty_caption_scores_zero_and_is_kept() -> None:
    assert rouge_scores([""], [["a star"]]) == [0.0]
    assert bleu_from_sums(bleu_counts([""], [["a star"]]).sum(axis=0)) == pytest.approx(0.0)
    assert np.isfinite(cider_scores(["", "a star"], [["a star"], ["a dot"]])).all()
