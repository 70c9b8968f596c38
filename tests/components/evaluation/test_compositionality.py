import numpy as np
import pytest

from components.evaluation.compositionality import (
    pair_scores,
    paired_cosines,
    paired_maxsim,
)


def test_only_a_strictly_higher_caption_wins() -> None:
    caption, negative = np.array([0.9, 0.5, 0.1, np.nan]), np.array([0.1, 0.5, 0.9, np.nan])
    assert pair_scores(caption, negative).tolist() == [1, 0, 0, 0]


def test_paired_cosines_are_the_diagonal_of_the_similarities() -> None:
    rng = np.random.default_rng(0)
    images, texts = rng.standard_normal((5, 8)), rng.standard_normal((5, 8))
    assert paired_cosines(images, texts) == pytest.approx(np.diag(images @ texts.T), abs=1e-6)


def test_paired_maxsim_equals_a_naive_loop() -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((5, 3, 8)).astype(np.float32)
    texts = rng.standard_normal((5, 2, 8)).astype(np.float32)
    expected = []
    for image, text in zip(images, texts, strict=True):
        best = [max(float(token @ other) for other in image) for token in text]
        best += [max(float(token @ other) for other in text) for token in image]
        expected.append(np.mean(best))
    assert paired_maxsim(images, texts) == pytest.approx(expected, abs=1e-5)
