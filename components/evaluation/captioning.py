"""Caption scores: CIDEr, BLEU-4 and ROUGE-L by pycocoevalcap, on words cut by `caption_words`.

The official front end is Stanford's PTB tokenizer, a Java program; here words are runs of letters,
digits and inner apostrophes of the lower-cased caption. The numbers are therefore close to
published ones, not equal. METEOR and SPICE need Java and are left out. CIDEr has the scale of its
code (identical captions reach 10; papers print 100 times it), the others lie in 0 … 1.
"""

import re
from collections.abc import Sequence

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from components.evaluation.intervals import BootstrapParams, Estimate, estimate, mean_estimate

_NUM_GRAMS = 4
_TINY, _SMALL = 1e-15, 1e-9  # pycocoevalcap's guards against 0 / 0


def caption_words(caption: str) -> str:
    """Return the lower-cased words, joined by single spaces.

    Punctuation, line ends and control characters are dropped.
    """
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", caption.lower()))


def caption_estimates(
    image_ids: Sequence[str],
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    params: BootstrapParams,
) -> dict[str, Estimate]:
    """Estimate CIDEr, BLEU-4 and ROUGE-L of one caption per picture, each with its interval.

    The document frequencies of CIDEr stay those of the whole set in every resample.
    """
    words = list(map(caption_words, captions))
    reference_words = [list(map(caption_words, row)) for row in references]
    return {
        "cider": mean_estimate(cider_scores(words, reference_words), image_ids, params),
        "bleu_4": estimate(bleu_counts(words, reference_words), image_ids, bleu_from_sums, params),
        "rouge_l": mean_estimate(rouge_scores(words, reference_words), image_ids, params),
    }


def cider_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return the CIDEr of every picture.

    All 0 for a single picture, whose n-grams have no document frequency.
    """
    results = {index: [caption] for index, caption in enumerate(captions)}
    truths = dict(enumerate(map(list, references)))
    _, scores = Cider().compute_score(truths, results)
    return list(map(float, scores))


def rouge_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return the ROUGE-L of every picture; an empty caption scores 0."""
    rouge, scores = Rouge(), []
    for caption, row in zip(captions, references, strict=True):
        scores.append(float(rouge.calc_score([caption], row)) if caption else 0.0)
    return scores


def bleu_counts(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Count words and n-grams for BLEU, (pictures, 10).

    Columns: caption length, closest reference length, n-grams (1 … 4), matched n-grams (1 … 4).
    """
    # The scorer counts pictures one by one; its own sum over them cannot be resampled.
    scorer = BleuScorer(n=_NUM_GRAMS)
    for caption, row in zip(captions, references, strict=True):
        scorer += (caption, list(row))

    rows = []
    for counts in scorer.ctest:
        length = counts["testlen"]
        closest = _closest(counts["reflen"], length)
        rows.append([length, closest, *counts["guess"], *counts["correct"]])
    return np.array(rows, dtype=np.float64)


def bleu_from_sums(sums: np.ndarray) -> np.ndarray:
    """Return the corpus BLEU-4 of summed `bleu_counts` (..., 10), without smoothing."""
    length, reference_length = sums[..., 0], sums[..., 1]
    guessed, matched = sums[..., 2 : 2 + _NUM_GRAMS], sums[..., 2 + _NUM_GRAMS :]
    # The geometric mean of the precisions, times the penalty for captions that are too short.
    precision = np.prod((matched + _TINY) / (guessed + _SMALL), axis=-1) ** (1 / _NUM_GRAMS)
    ratio = (length + _TINY) / (reference_length + _SMALL)
    return precision * np.exp(np.minimum(0.0, 1 - 1 / ratio))


def _closest(reference_lengths: Sequence[int], length: int) -> int:
    # Of two equally close lengths the shorter, as in the official code.
    return min(reference_lengths, key=lambda candidate: (abs(candidate - length), candidate))
