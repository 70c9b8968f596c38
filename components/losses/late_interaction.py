"""MaxSim: how alike two things are that have several vectors each, a query and what it finds.

The late interaction of ColBERT (arXiv 2004.12832) and ColPali (arXiv 2407.01449), for training.
Search and evaluation compare in both directions (`components/store/token_similarity.py`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def maxsim(queries: Tensor, gallery: Tensor) -> Tensor:
    """Sum the largest cosine of each token of a query with a token of an entry: (queries, entries).

    Args: queries (queries, query tokens, dim) and gallery (entries, tokens, dim), of `directions`.
    """
    total = queries.new_zeros(len(queries), len(gallery))
    flat = gallery.flatten(0, 1)

    # one token of all queries at a time: the cosines of all at once would be as many times larger
    for tokens in queries.unbind(1):
        cosines = (tokens @ flat.T).unflatten(1, gallery.shape[:2])
        total = total + cosines.max(-1).values
    return total


def directions(tokens: Tensor) -> Tensor:
    """L2-normalise vectors (…, dim), in float32 or wider; zeros stay zeros."""
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    return F.normalize(tokens.to(dtype), dim=-1)
