"""A trained compressor, in one process: pictures to summary tokens, and answers from these."""

import io
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps

from components.answering.one_question import answer_question
from components.compression.compressor import compress_prepared
from components.compression.identity import find_base, read_config
from components.compression.stored_model import best_device, load_model_of
from components.methods.checkpoint import load_compressor
from components.methods.method import Method
from components.pictures import PILLOW_MAX_PIXELS, PictureError, PictureLimits, decode_picture
from components.search.query import embed_stored, embed_text
from components.store.provenance import Provenance

# the widest that are safe to decode; params.yaml has narrower ones for a corpus
LIMITS = PictureLimits(
    formats=("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"),
    max_pixels=PILLOW_MAX_PIXELS,
    max_aspect_ratio=100.0,
    max_side=PILLOW_MAX_PIXELS,
    min_side=1,
)

Picture = Image.Image | Path | str


class Compressor:
    """A trained compressor on its base model, ready for use.

    Tokens are float32 arrays: (pictures, summary tokens, dim), or (summary tokens, dim) of one.
    """

    def __init__(self, model: Method) -> None:
        """Take a model that is loaded; `Compressor.load` loads one."""
        self.model = model

    @classmethod
    def load(
        cls,
        path: Path | str,
        base: str | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> "Compressor":
        """Load the folder that `fwd2bot train` wrote, on a GPU if there is one.

        Args: base: folder or hub id of the base model; otherwise the one that the compressor names,
        beside it or on the hub. dtype: of the base model's weights.

        Raises ValueError: no compressor, or a base model other than the one it was trained on.
        """
        path = Path(path)
        read_config(path)  # its error says how to get a compressor
        base = find_base(path, base)
        return cls(load_compressor(path, base, best_device(), getattr(torch, dtype)))

    @classmethod
    def load_for(
        cls, provenance: Provenance, path: Path | str, base: str | None = None
    ) -> "Compressor":
        """Load the compressor that wrote a store. Raises StoreError when it is another one."""
        return cls(load_model_of(provenance, Path(path), base))

    @property
    def num_summary_tokens(self) -> int:
        """The number of summary tokens of a picture."""
        return self.model.num_summary_tokens

    @property
    def dim(self) -> int:
        """The length of a summary token."""
        return self.model.dim

    def compress(self, images: Picture | Iterable[Picture], batch_size: int = 8) -> np.ndarray:
        """Compress pictures: float32 (pictures, summary tokens, dim), in their order.

        Args: images: one or many, as PIL images or paths of files. batch_size: pictures that the
        model reads together.

        Raises PictureError, with the path, for a file that is no usable picture; ValueError for a
        method that stores nothing.
        """
        if self.model.why_not_stored:
            raise ValueError(self.model.why_not_stored)

        # no more than a batch of decoded pictures is in memory
        pictures = iter([images] if isinstance(images, Picture) else images)
        parts = [np.empty((0, self.num_summary_tokens, self.dim), np.float32)]
        while batch := [as_rgb(picture) for picture in islice(pictures, batch_size)]:
            parts.append(compress_prepared(self.model, self.model.prepare(batch)))
        return np.concatenate(parts)

    def answer(self, tokens: np.ndarray, question: str, max_new_tokens: int = 32) -> str:
        """Answer a question about a picture from its tokens (summary tokens, dim), greedily.

        Raises ValueError: an empty question, or one that does not fit the model.
        """
        return answer_question(self.model, self._tokens(tokens, 2), question, max_new_tokens)

    def embed_text(self, text: str) -> np.ndarray:
        """Embed a text to search with: float32 (dim,), of length 1.

        Tokens at the end that do not fit the model are left out. Raises ValueError for an empty
        text.
        """
        return embed_text(self.model, text)[0]

    def embed_images(self, tokens: np.ndarray) -> np.ndarray:
        """Embed pictures by their tokens (pictures, summary tokens, dim): float32 (pictures, dim).

        Rows are of length 1; their product with `embed_text` is the cosine similarity.
        """
        return embed_stored(self.model, self._tokens(tokens, 3))

    def _tokens(self, tokens: np.ndarray, num_axes: int) -> np.ndarray:
        """Return tokens as float32. Raises ValueError for an array of another shape."""
        wanted = (self.num_summary_tokens, self.dim)
        found = np.ascontiguousarray(tokens, np.float32)
        if found.ndim != num_axes or found.shape[-2:] != wanted:
            shape = wanted if num_axes == 2 else ("pictures", *wanted)
            raise ValueError(f"the tokens have shape {found.shape} instead of {shape}")
        return found


def as_rgb(picture: Picture) -> Image.Image:
    """Decode a file, or convert a PIL image, by the rules of corpora. Raises PictureError."""
    if isinstance(picture, Image.Image):
        picture = ImageOps.exif_transpose(picture)  # as a camera held it
        if picture.mode == "RGB":
            return picture

        # the same rules for grey, palettes and transparency: read it as if from a file
        buffer = io.BytesIO()
        try:
            picture.save(buffer, "TIFF")
        except OSError:
            detail = f"a picture of mode {picture.mode}; convert it to RGB first"
            raise PictureError("unsupported_mode", detail) from None
        return decode_picture(buffer.getvalue(), LIMITS)

    try:
        return decode_picture(Path(picture).read_bytes(), LIMITS)
    except PictureError as error:
        raise PictureError(error.reason, f"{picture}: {error.detail}") from None
