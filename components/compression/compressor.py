"""Pictures into summary tokens: guarded decode, the model's preprocessing, and the compression pass (Eq. 1), batch by
batch.

Batches are cut from the order of the pictures alone, so the tokens of a picture do not depend on who computes them.
While the model works on one batch, threads decode the next. A picture that cannot be used takes its own row out and
nothing else.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from components.compression.codecs import Codec
from components.compression.corpus import Picture
from components.compression.rejects import Reject, UnreadablePictureError
from components.compression.shards import TokenRows, concatenate, no_rows, split_by_codec
from components.model.double_forward import DoubleForward
from components.model.prepared import PreparedPictures, merge
from components.pictures import PictureError, PictureLimits, decode_picture


class Prepared(NamedTuple):
    """A decoded picture on its way to the model."""

    image_id: str
    width: int  # pixels, as shown: after rotation
    height: int
    pixels: PreparedPictures  # of this picture alone


def compress_pictures(
    model: DoubleForward,
    pictures: Iterable[Picture],
    *,
    limits: PictureLimits,
    batch_size: int,
    decode_threads: int,
    codec: Codec,
) -> tuple[TokenRows, list[Reject]]:
    """Compress pictures in batches of `batch_size`: rows sorted by id that `codec` can hold, and the rejects."""
    batches = [no_rows(model.num_summary_tokens, model.backbone.dim)]
    rejects: list[Reject] = []
    for prepared in _prepare_batches(model, pictures, limits, batch_size, decode_threads):
        rejects += [item for item in prepared if isinstance(item, Reject)]
        accepted = [item for item in prepared if isinstance(item, Prepared)]
        if accepted:
            batches.append(_compress_batch(model, accepted))
    rows, unstorable = split_by_codec(concatenate(batches), codec)
    return rows, sorted([*rejects, *unstorable])


@torch.inference_mode()
def compress_prepared(model: DoubleForward, pictures: PreparedPictures) -> np.ndarray:
    """The compression pass: float32 summary tokens (pictures, summary_tokens, dim)."""
    assert not model.training
    return model.compress_pictures(pictures).float().cpu().numpy()


def prepare(model: DoubleForward, picture: Picture, limits: PictureLimits) -> Prepared | Reject:
    """Load, decode and preprocess one picture; of a large picture only the small tensor is kept."""
    try:
        image = decode_picture(picture.load(), limits)
    except (PictureError, UnreadablePictureError) as error:
        return Reject(picture.image_id, error.reason, error.detail)
    return Prepared(picture.image_id, image.width, image.height, model.backbone.prepare([image]))


def _prepare_batches(
    model: DoubleForward, pictures: Iterable[Picture], limits: PictureLimits, batch_size: int, decode_threads: int
) -> Iterator[list[Prepared | Reject]]:
    """Batches in order; the next one is prepared while the caller works on this one."""
    source = iter(pictures)
    with ThreadPoolExecutor(decode_threads, thread_name_prefix="decode") as threads:
        pending: list[Future[Prepared | Reject]] = []
        while True:
            following = [threads.submit(prepare, model, picture, limits) for picture in islice(source, batch_size)]
            if pending:
                yield [future.result() for future in pending]
            if not following:
                return
            pending = following


def _compress_batch(model: DoubleForward, batch: list[Prepared]) -> TokenRows:
    return TokenRows(
        [item.image_id for item in batch],
        np.array([item.width for item in batch], np.int32),
        np.array([item.height for item in batch], np.int32),
        compress_prepared(model, merge([item.pixels for item in batch])),
    )
