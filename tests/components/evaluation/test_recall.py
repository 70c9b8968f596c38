import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluation.recall import (
    MAXSIM,
    MEAN,
    RANKINGS,
    fits_in_order,
    image_to_text_ranks,
    precision_at_k,
    recall_at_k,
    text_to_image_ranks,
)

COSINE = RANKINGS[MEAN]


def random_gallery(
    seed: int, num_images: int, captions_per_image: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(-2, 3, size=(num_images, 3)).astype(np.float32)  # few values: many ties
    texts = rng.integers(-2, 3, size=(num_images * captions_per_image, 3)).astype(np.float32)
    return images, texts, np.repeat(np.arange(num_images), captions_per_image)


def naive_is_hit(
    query: np.ndarray, gallery: np.ndarray, own: list[int], candidates: list[int], k: int
) -> bool:
    ranked = sorted(candidates, key=lambda index: (-float(query @ gallery[index]), index))
    return any(index in own for index in ranked[:k])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 6), st.integers(1, 3), st.integers(1, 5), st.data())
def test_recall_equals_a_naive_loop(
    seed: int, num_images: int, captions_per_image: int, k: int, data: st.DataObject
) -> None:
    images, texts, owners = random_gallery(seed, num_images, captions_per_image)
    is_present = np.array(
        data.draw(st.lists(st.booleans(), min_size=num_images, max_size=num_images))
    )
    present, every_text = list(np.flatnonzero(is_present)), list(range(len(texts)))
    to_text = [
        bool(is_present[i])
        and naive_is_hit(images[i], texts, list(np.flatnonzero(owners == i)), every_text, k)
        for i in range(num_images)
    ]
    to_image = [
        bool(is_present[owners[t]]) and naive_is_hit(texts[t], images, [owners[t]], present, k)
        for t in every_text
    ]
    assert recall_at_k(
        image_to_text_ranks(images, texts, owners, is_present, 5, COSINE), k
    ) == pytest.approx(np.mean(to_text))
    assert recall_at_k(
        text_to_image_ranks(images, texts, owners, is_present, 5, COSINE), k
    ) == pytest.approx(np.mean(to_image))


def test_one_caption_of_several_is_enough_and_counts_once() -> None:
    images, owners = np.eye(2, dtype=np.float32), np.array([0, 0, 1, 1])
    texts = np.array([[0.0, 1], [1, 0], [0, 0.5], [0, 0.5]], dtype=np.float32)
    everyone = np.ones(2, dtype=bool)
    assert image_to_text_ranks(images, texts, owners, everyone, 3, COSINE).tolist() == [1, 2]
    assert text_to_image_ranks(images, texts, owners, everyone, 3, COSINE).tolist() == [2, 1, 1, 1]


def test_embeddings_that_are_all_equal_score_no_better_than_chance() -> None:
    images, texts = np.ones((10, 4), dtype=np.float32), np.ones((10, 4), dtype=np.float32)
    ranks = image_to_text_ranks(images, texts, np.arange(10), np.ones(10, dtype=bool), 5, COSINE)
    assert recall_at_k(ranks, 1) == 0.1
    assert recall_at_k(ranks, 5) == 0.5


def test_small_blocks_give_the_same_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts, owners = random_gallery(7, 20, 5)
    everyone = np.ones(20, dtype=bool)
    whole = text_to_image_ranks(images, texts, owners, everyone, 10, COSINE)
    monkeypatch.setattr("components.evaluation.recall._BLOCK_SIMILARITIES", 60)
    assert np.array_equal(text_to_image_ranks(images, texts, owners, everyone, 10, COSINE), whole)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 12), st.integers(1, 4), st.integers(1, 10))
def test_precision_equals_a_naive_loop(
    seed: int, num_images: int, num_queries: int, k: int
) -> None:
    images, queries, _ = random_gallery(seed, num_images, num_queries)
    rng = np.random.default_rng(seed)
    is_fitting = rng.random((len(queries), num_images)) < 0.4
    is_present = rng.random(num_images) < 0.8
    expected = []
    for query, fits in zip(queries, is_fitting, strict=True):
        present = [image for image in range(num_images) if is_present[image]]
        ranked = sorted(present, key=lambda image: (-float(query @ images[image]), image))
        expected.append(sum(bool(fits[image]) for image in ranked[:k]) / k)
    fits = fits_in_order(queries, images, is_fitting, is_present, 10, COSINE)
    assert precision_at_k(fits, k).tolist() == pytest.approx(expected)


def test_precision_of_a_query_that_few_pictures_fit_stays_below_one() -> None:
    """By hand: the first of three pictures fits, the second does not, the third does."""
    images = np.array([[1.0, 0], [0.8, 0.6], [0, 1]], dtype=np.float32)
    query = np.array([[1.0, 0]], dtype=np.float32)
    is_fitting = np.array([[True, False, True]])
    fits = fits_in_order(query, images, is_fitting, np.ones(3, dtype=bool), 10, COSINE)
    assert fits.tolist() == [[True, False, True] + 7 * [False]]
    found = [precision_at_k(fits, k).item() for k in (1, 2, 10)]
    assert found == pytest.approx([1, 1 / 2, 2 / 10])
    fits = fits_in_order(query, images, is_fitting, np.array([False, True, True]), 10, COSINE)
    assert fits.tolist() == [[False, True] + 8 * [False]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_ranks_by_maxsim_equal_a_naive_loop(
    seed: int, num_images: int, captions_per_image: int, num_tokens: int
) -> None:
    """A pair has one score in both ways: each token's like on the other side."""
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(num_images), captions_per_image)
    images = rng.integers(-2, 3, size=(num_images, num_tokens, 3)).astype(np.float32)
    texts = rng.integers(-2, 3, size=(len(owners), num_tokens, 3)).astype(np.float32)
    is_present = rng.random(num_images) < 0.8
    score = np.zeros((len(texts), num_images))
    for text, image in np.ndindex(score.shape):
        score[text, image] = sum(max(float(a @ b) for b in images[image]) for a in texts[text])
        score[text, image] += sum(max(float(a @ b) for b in texts[text]) for a in images[image])

    every, present = list(range(len(texts))), list(np.flatnonzero(is_present))
    to_text = []
    for image in range(num_images):
        order = sorted(every, key=lambda text: (-score[text, image], text))[:3]
        hits = [rank for rank, text in enumerate(order, start=1) if owners[text] == image]
        to_text.append(hits[0] if hits and is_present[image] else 4)
    to_image = []
    for text in every:
        order = sorted(present, key=lambda image: (-score[text, image], image))[:3]
        to_image.append(order.index(owners[text]) + 1 if owners[text] in order else 4)

    arguments = (images, texts, owners, is_present, 3, RANKINGS[MAXSIM])
    assert image_to_text_ranks(*arguments).tolist() == to_text
    assert text_to_image_ranks(*arguments).tolist() == to_image
