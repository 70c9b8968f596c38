"""Compression pass: batches of decoded pictures -> summary tokens.

Pictures fail one by one: a bad picture is a Reject with a reason, and the others of its batch do
not notice. The values of a row do not depend on which pictures share its batch, but for the last
bits of the arithmetic.
"""

from collections.abc import Iterable

import numpy as np
import torch

from components.compression.picture_decoding import Batch
from components.methods.method import Method
from components.model.prepared import PreparedPictures
from components.store.rejects import Reject
from components.store.shards import TokenRows, concatenate, no_rows


def compress_batches(model: Method, batches: Iterable[Batch]) -> tuple[TokenRows, list[Reject]]:
    """Compress the batches of a shard; rejects are the pictures that could not be decoded."""
    parts = [no_rows(model.num_summary_tokens, model.dim)]
    rejects: list[Reject] = []

    for batch in batches:
        rejects += batch.rejects

        # All pictures of a batch may be rejects.
        if batch.image_ids:
            summary_tokens = compress_prepared(model, batch.pictures)
            widths, heights = np.array([batch.widths, batch.heights], np.int32)
            parts.append(TokenRows(batch.image_ids, widths, heights, summary_tokens))

    return concatenate(parts), rejects


@torch.inference_mode()
def compress_prepared(model: Method, pictures: PreparedPictures) -> np.ndarray:
    """Compress prepared pictures to float32 summary tokens (pictures, summary_tokens, dim)."""
    assert not model.training
    return model.compress_pictures(pictures).float().cpu().numpy()
