"""Image–text retrieval: recall at k by the COCO protocol, and precision at k.

All are of rankings of the whole gallery.

image to text: every caption is ranked for a picture; a hit if one of the picture's own captions is
among the first k. text to image: every picture is ranked for a caption; a hit if the caption's
picture is among the first k. precision at k: pictures are ranked for a query that several of them
fit. Equal similarities (the same caption written for two pictures) keep gallery order. Similarity
is the cosine, in fp32, or MaxSim: each token of the text and of the picture looks for its like on
the other side, and the cosines are averaged.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from components.evaluation.compositionality import paired_cosines, paired_maxsim
from components.store.token_similarity import mutual_maxsim

MEAN, MAXSIM = "mean", "maxsim"
# (queries, …), (gallery, …) -> (queries, gallery) float32
Similarity = Callable[[np.ndarray, np.ndarray], np.ndarray]
_BLOCK_SIMILARITIES = 4_000_000  # similarities held at once, 16 MB


def cosines(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Compare embeddings (queries, dim) and (gallery, dim), L2-normalised: (queries, gallery)."""
    similarities: np.ndarray = queries.astype(np.float32) @ gallery.astype(np.float32).T
    return similarities


class Ranking(NamedTuple):
    """How texts and pictures are compared, with either of them as queries."""

    by_text: Similarity
    by_image: Similarity
    of_pairs: Similarity  # (pairs, …), (pairs, …) -> (pairs,)


# of the means of tokens, and of the tokens themselves
RANKINGS = {
    MEAN: Ranking(cosines, cosines, paired_cosines),
    MAXSIM: Ranking(mutual_maxsim, mutual_maxsim, paired_maxsim),
}


def image_to_text_ranks(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    owners: np.ndarray,
    is_present: np.ndarray,
    top_k: int,
    ranking: Ranking,
) -> np.ndarray:
    """Rank captions for each picture: (images,), from 1, of the best of its own captions.

    `top_k + 1` if it is not among the first k.

    Args: image_embeddings (images, dim) and text_embeddings (texts, dim), L2-normalised, or with
    several tokens each as the ranking compares them; owners (texts,) index of each caption's
    picture; is_present (images,) False where the picture has no embedding: never a hit.
    """
    ranks = np.full(len(image_embeddings), top_k + 1)
    every_text = np.ones(len(text_embeddings), dtype=bool)
    orders = _orders(image_embeddings, text_embeddings, every_text, top_k, ranking.by_image)
    for rows, order in orders:
        ranks[rows] = _first_rank(owners[order] == rows[:, None], top_k)
    return np.where(is_present, ranks, top_k + 1)


def text_to_image_ranks(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    owners: np.ndarray,
    is_present: np.ndarray,
    top_k: int,
    ranking: Ranking,
) -> np.ndarray:
    """Rank pictures for each caption: (texts,), from 1, of its picture.

    `top_k + 1` if it is not among the first k. Arguments as above.
    """
    ranks = np.full(len(text_embeddings), top_k + 1)
    orders = _orders(text_embeddings, image_embeddings, is_present, top_k, ranking.by_text)
    for rows, order in orders:
        ranks[rows] = _first_rank(order == owners[rows][:, None], top_k)
    return np.where(is_present[owners], ranks, top_k + 1)


def recall_at_k(ranks: np.ndarray, k: int) -> float:
    """Return the fraction of queries whose rank is at most k."""
    return float((ranks <= k).mean())


def fits_in_order(
    query_embeddings: np.ndarray,
    image_embeddings: np.ndarray,
    is_fitting: np.ndarray,
    is_present: np.ndarray,
    top_k: int,
    ranking: Ranking,
) -> np.ndarray:
    """Say of the first k pictures of each query whether they fit: (queries, top_k) bool.

    False where the gallery has no more pictures. Args: query_embeddings (queries, dim) and
    image_embeddings (images, dim), L2-normalised, or as above; is_fitting (queries, images);
    is_present (images,) False where the picture has no embedding: never found.
    """
    fits = np.zeros((len(query_embeddings), top_k), dtype=bool)
    orders = _orders(query_embeddings, image_embeddings, is_present, top_k, ranking.by_text)
    for rows, order in orders:
        # what is absent stands behind all others, and yet in a small gallery's order
        fits[rows, : order.shape[1]] = is_fitting[rows[:, None], order] & is_present[order]
    return fits


def precision_at_k(fits: np.ndarray, k: int) -> np.ndarray:
    """Return the fraction of the first k pictures that fit, (queries,), from `fits_in_order`.

    Always a fraction of k, as trec_eval counts: a query that fewer than k pictures fit stays
    below 1 even in the best order.
    """
    return fits[:, :k].mean(axis=1)


def _orders(
    queries: np.ndarray,
    gallery: np.ndarray,
    is_candidate: np.ndarray,
    top_k: int,
    similarity: Similarity,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield blocks of (query rows (block,), gallery indices (block, ≤ top_k) best first)."""
    # Queries in blocks: all similarities at once would not fit into memory.
    block = max(1, _BLOCK_SIMILARITIES // max(1, len(gallery)))
    for start in range(0, len(queries), block):
        similarities = similarity(queries[start : start + block], gallery)
        similarities[:, ~is_candidate] = -np.inf
        # stable, so that equal similarities keep gallery order
        order = np.argsort(-similarities, axis=1, kind="stable")[:, :top_k]
        yield np.arange(start, start + len(order)), order


def _first_rank(is_hit: np.ndarray, top_k: int) -> np.ndarray:
    return np.where(is_hit.any(axis=1), is_hit.argmax(axis=1) + 1, top_k + 1)
