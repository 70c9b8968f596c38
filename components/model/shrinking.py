"""Pictures shrunk until few image tokens are left of them.

docs/decisions/0044-the-downsampled-picture.md says why so.
"""

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def token_grid(width: int, height: int, num_tokens: int) -> tuple[int, int]:
    """Return rows and columns of the best grid of at most `num_tokens` tokens over a picture.

    The best one sees the coarser of the two sides as finely as can be; of several such grids it has
    the most tokens, and then the cells that are most like squares.
    """

    def worth(grid: tuple[int, int]) -> tuple[Fraction, int, Fraction]:
        rows, columns = grid
        finenesses = Fraction(rows, height), Fraction(columns, width)  # tokens per pixel
        return min(finenesses), rows * columns, min(finenesses) / max(finenesses)

    # With a number of rows, more columns never see less.
    return max(((rows, num_tokens // rows) for rows in range(1, num_tokens + 1)), key=worth)


def shrink(image: Image.Image, num_tokens: int, token_side: int) -> Image.Image:
    """Shrink an RGB picture to a grid of at most `num_tokens` squares of `token_side` pixels.

    All of it, without padding; its sides change as far as the grid is not of its shape.
    """
    rows, columns = token_grid(image.width, image.height, num_tokens)
    size = (columns * token_side, rows * token_side)
    return image.resize(size, Image.Resampling.LANCZOS)


def to_pixels(image: Image.Image, image_processor: Any) -> Tensor:
    """Return a picture as a vision tower reads it, in the size it has: (1, 3, height, width)."""
    values = torch.from_numpy(np.array(image, dtype=np.float32)) * image_processor.rescale_factor
    mean, std = torch.tensor(image_processor.image_mean), torch.tensor(image_processor.image_std)
    return ((values - mean) / std).permute(2, 0, 1)[None]
