import numpy as np
import pytest

from components.evaluation.compositionality import pair_scores, paired_cosines


def test_only_a_strictly_higher_caption_wins() -> None:
    caption, negative = np.array([0.9, 0.5, 0.1, np.nan]), np.array([0.1, 0.5, 0.9, np.nan])
    assert pair_scores(caption, negative).tolist() == [1, 0, 0, 0]


def test_paired_cosines_are_the_diagonal_of_the_similarities() -> None:
    rng = np.random.default_rng(0)
    images, texts = rng.standard_normal((5, 8)), rng.standard_normal((5, 8))
    assert paired_cosines(images, texts) == pytest.approx(np.diag(images @ texts.T), abs=1e-6)
