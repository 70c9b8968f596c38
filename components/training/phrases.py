"""Phrases: further texts that are true of a picture, read beside its caption.

Who searches writes "a red circle", not a whole description. Where a picture comes with short texts,
a step reads some of them, drawn anew, and, if wanted, each changed by a word into a wrong one.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np

from components.training.collate import TextParams, TrainSample
from components.training.negatives import hard_negative


def with_phrases(
    sample: TrainSample, texts: TextParams, plausible: Collection[str], rng: np.random.Generator
) -> TrainSample:
    """Choose what of a sample's texts is read in a step; one without caption stays as it is.

    `plausible`: the phrases of all samples. A wrong phrase is one of them: a text that is never
    true would be known as wrong without a look at the picture (SugarCrepe, Hsieh et al., 2023).
    """
    if sample.caption is None:
        return sample
    phrases = draw_phrases(sample.known_phrases, texts.phrases_per_caption, rng)

    if not texts.hard_negatives:
        return sample._replace(phrases=phrases)

    # wrong texts are made of the short ones, where such are read; no caption is like another one
    known = {sample.caption, *sample.known_phrases}
    if texts.phrases_per_caption:
        wrong = [
            hard_negative(text, texts.hard_negatives, known, plausible, rng) for text in phrases
        ]
    else:
        wrong = [hard_negative(sample.caption, texts.hard_negatives, known, None, rng)]
    return sample._replace(phrases=phrases, hard_negatives=wrong)


def draw_phrases(phrases: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """Draw at most `count` different phrases, each length in words as likely as any other.

    There are far more long ones than short ones: every two objects make one.
    """
    of_length: dict[int, list[str]] = defaultdict(list)
    for phrase in phrases:
        of_length[len(phrase.split())].append(phrase)

    drawn: list[str] = []
    while of_length and len(drawn) < count:
        lengths = sorted(of_length)
        length = lengths[int(rng.integers(len(lengths)))]
        same = of_length[length]
        drawn.append(same.pop(int(rng.integers(len(same)))))
        if not same:
            del of_length[length]
    return drawn
