"""Compositional pairs by SugarCrepe's rule.

A pair is right if the caption scores strictly higher than its near-miss. A tie is wrong, as in the
official script, so a model that cannot tell the two apart scores 0, not by luck.
"""

import numpy as np

from components.store.token_similarity import mutual_maxsim


def pair_scores(caption_scores: np.ndarray, negative_scores: np.ndarray) -> np.ndarray:
    """Score pairs, (pairs,): 1 where the caption wins, else 0, as for NaN (no score)."""
    return (np.asarray(caption_scores) > np.asarray(negative_scores)).astype(np.float64)


def paired_cosines(image_embeddings: np.ndarray, text_embeddings: np.ndarray) -> np.ndarray:
    """Return the fp32 cosines of row i with row i, (pairs,); both (pairs, dim), L2-normalised."""
    return np.einsum(
        "pd,pd->p", image_embeddings.astype(np.float32), text_embeddings.astype(np.float32)
    )


def paired_maxsim(image_tokens: np.ndarray, text_tokens: np.ndarray) -> np.ndarray:
    """Return MaxSim of text i with picture i, (pairs,); both (pairs, tokens, dim), normalised."""
    scores = np.empty(len(image_tokens), np.float32)
    for place in range(len(scores)):
        pair = slice(place, place + 1)
        scores[place] = mutual_maxsim(text_tokens[pair], image_tokens[pair])[0, 0]
    return scores
