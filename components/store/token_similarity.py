"""How alike the stored tokens of a picture and the summary tokens of a query are."""

import numpy as np


def mutual_maxsim(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Compare by MaxSim in both directions: (queries, entries) float32, between -1 and 1.

    Each token of either side looks for its like on the other one, and the cosines are averaged. By
    the tokens of the query alone, as in ColBERT (arXiv 2004.12832), a picture that shows more than
    a caption says would be as good as one that shows just that.

    Args: queries (queries, query tokens, dim) and gallery (entries, tokens, dim), L2-normalised.
    """
    num_tokens, shape = queries.shape[1], (len(queries), *gallery.shape[:2])
    flat = gallery.reshape(-1, gallery.shape[-1]).astype(np.float32)
    of_query = np.zeros(shape[:2], np.float32)
    of_entry = np.full(shape, -np.inf, np.float32)  # the best so far for each token of an entry

    # one token of all queries at a time: the cosines of all at once would be as many times larger
    for place in range(num_tokens):
        cosines = (queries[:, place].astype(np.float32) @ flat.T).reshape(shape)
        of_query += cosines.max(-1)
        np.maximum(of_entry, cosines, out=of_entry)
    return (of_query + of_entry.sum(-1)) / (num_tokens + gallery.shape[1])
