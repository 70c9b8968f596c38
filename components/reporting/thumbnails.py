"""Pictures inside the page: small ones as data URIs, and stored tokens as pictures."""

import base64
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from components import schema
from components.pictures import PictureError, PictureLimits, decode_picture, encode_png

# Negative, zero, positive: readable on white and on black, and by the colour-blind.
STRIP_COLOURS = np.array([[217, 119, 6], [247, 245, 240], [79, 70, 229]], np.float64)
STRIP_QUANTILE = 0.98  # of the magnitudes; larger ones get the full colour


class Thumbnail(NamedTuple):
    """A small picture as a data URI; size in pixels."""

    uri: str
    width: int
    height: int


def read_thumbnails(
    folder: Path, image_ids: Collection[str], limits: PictureLimits, max_side: int
) -> dict[str, Thumbnail]:
    """Read pictures of the corpus, at most `max_side` pixels high and wide.

    Pictures that are not there or cannot be opened are left out.
    """
    if not image_ids:
        return {}

    # only the wanted rows are read
    columns, wanted = [schema.IMAGE_ID, schema.IMAGE], [(schema.IMAGE_ID, "in", sorted(image_ids))]
    found = {}
    for row in pq.read_table(folder, columns=columns, filters=wanted).to_pylist():
        # one bad picture does not cost the page
        with suppress(PictureError):
            picture = decode_picture(row[schema.IMAGE], limits)
            found[row[schema.IMAGE_ID]] = thumbnail(picture, max_side)
    return found


def thumbnail(image: Image.Image, max_side: int) -> Thumbnail:
    """Return an RGB picture, scaled down if it is larger."""
    small = image.copy()
    small.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    uri = "data:image/png;base64," + base64.b64encode(encode_png(small)).decode("ascii")
    return Thumbnail(uri, *small.size)


def token_strip(tokens: np.ndarray) -> Thumbnail:
    """Return stored tokens (k, dim) as k rows of dim pixels: orange below zero, violet above."""
    # a few outliers would leave all others pale
    scale = float(np.quantile(np.abs(tokens), STRIP_QUANTILE)) or 1.0
    place = 1 + np.clip(np.nan_to_num(tokens.astype(np.float64)) / scale, -1, 1)  # 0 … 2

    channels = [np.interp(place, [0, 1, 2], STRIP_COLOURS[:, channel]) for channel in range(3)]
    pixels = np.stack(channels, axis=-1).round().astype(np.uint8)  # (k, dim, 3)
    return thumbnail(Image.fromarray(pixels), max(pixels.shape[:2]))


def mean_file_bytes(folder: Path) -> float:
    """Return the bytes of a picture file of the corpus, on average."""
    files = pq.read_table(folder, columns=[schema.IMAGE])[schema.IMAGE]
    return float(pc.mean(pc.binary_length(files)).as_py())
