"""Batches of decoded pictures -> the rows of a store: the compression pass.

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
from components.store.codecs import Codec
from components.store.rejects import Reject
from components.store.shards import TokenRows, concatenate, no_rows, split_by_codec


def compress_batches(
    model: Method, batches: Iterable[Batch], codec: Codec
) -> tuple[TokenRows, list[Reject]]:
    """Compress the batches of a shard: rows sorted by id that `codec` can hold, and the rejects."""
    parts = [no_rows(model.num_summary_tokens, model.dim)]
    rejects: list[Reject] = []
    for batch in batches:
        rejects += batch.rejects
        if batch.image_ids:
            parts.append(compress_batch(model, batch))
    rows, unstorable = split_by_codec(concatenate(parts), codec)
    return rows, sorted([*rejects, *unstorable])


def compress_batch(model: Method, batch: Batch) -> TokenRows:
    """The rows of one batch, which holds a picture at least."""
    summary_tokens = compress_prepared(model, batch.pictures)
    return TokenRows(
        batch.image_ids,
        np.array(batch.widths, np.int32),
        np.array(batch.heights, np.int32),
        summary_tokens,
    )


@torch.inference_mode()
def compress_prepared(model: Method, pictures: PreparedPictures) -> np.ndarray:
    """The compression pass: float32 summary tokens (pictures, summary_tokens, dim)."""
    assert not model.training
    return model.compress_pictures(pictures).float().cpu().numpy()
