"""Average pooling: fewer visual tokens of a picture without anything learned."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from components.model.segments import Segment, text_segment


def cells(patches: Tensor, num_cells: int) -> Tensor:
    """Cut patches (pictures, side², channels) into square cells.

    The result is (pictures, num_cells, patches of a cell, channels); cells, and patches in them,
    are in raster order.
    """
    # (rows of cells, rows in a cell, columns of cells, columns in a cell)
    side, per_side = round(patches.shape[1] ** 0.5), round(num_cells**0.5)
    grid = patches.unflatten(1, (per_side, side // per_side, per_side, side // per_side))
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def average_pool(image_embeddings: Tensor, num_tokens: int) -> Tensor:
    """Average visual tokens: (batch, image_tokens, dim) -> (batch, num_tokens, dim).

    Over the square grid of patches if both counts are square numbers (36 -> 4 averages quadrants),
    else over runs of the raster order. Raises ValueError if there are fewer image tokens than asked
    for.
    """
    num_image_tokens = image_embeddings.shape[1]
    if num_tokens > num_image_tokens:
        raise ValueError(
            f"cannot average {num_image_tokens} image tokens into {num_tokens}; "
            "compress to fewer tokens"
        )

    # Neighbours on the picture are alike, and a grid keeps them together.
    channels_first = image_embeddings.transpose(1, 2)
    side, pooled_side = math.isqrt(num_image_tokens), math.isqrt(num_tokens)
    if side**2 == num_image_tokens and pooled_side**2 == num_tokens:
        grid = channels_first.unflatten(2, (side, side))
        return functional.adaptive_avg_pool2d(grid, pooled_side).flatten(2).transpose(1, 2)

    return functional.adaptive_avg_pool1d(channels_first, num_tokens).transpose(1, 2)


def pool_pictures(pictures: Segment, num_tokens: int) -> Segment:
    """Average pictures of any lengths into `num_tokens` plain visual tokens each."""
    rows = zip(pictures.embeddings, pictures.lengths, strict=True)
    pooled = [average_pool(row[None, :length], num_tokens) for row, length in rows]
    return text_segment(torch.cat(pooled))
