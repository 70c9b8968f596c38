"""The order of found pictures by MaxSim of their tokens."""

from collections.abc import Sequence

import numpy as np
import torch

from components.losses.late_interaction import directions
from components.search.index import Hit
from components.store.token_similarity import mutual_maxsim


def rerank(
    image_ids: Sequence[str], picture_tokens: np.ndarray, query_tokens: np.ndarray, k: int
) -> list[Hit]:
    """Return the `k` best pictures by MaxSim in both directions, equal scores by id.

    Args: picture_tokens (pictures, summary tokens, dim); query_tokens (query tokens, dim).
    """
    query, gallery = torch.from_numpy(query_tokens)[None], torch.from_numpy(picture_tokens)
    scores = mutual_maxsim(directions(query).numpy(), directions(gallery).numpy())[0].tolist()
    hits = [Hit(image_id, score) for image_id, score in zip(image_ids, scores, strict=True)]
    return sorted(hits, key=lambda hit: (-hit.score, hit.image_id))[:k]
