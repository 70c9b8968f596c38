"""Position embeddings of patches that are computed, not learned."""

import math

import torch


def sincos_positions(grid: int, dim: int) -> torch.Tensor:
    """Sine and cosine position embeddings of a square grid: zeros for the class token, then row by row.

    A random start of 0.02 made positions slow to learn at this size. Returns
    (1 + grid * grid, dim).
    """
    frequencies = torch.exp(torch.arange(dim // 4) * (-math.log(10_000.0) / (dim // 4)))
    angles = torch.arange(grid)[:, None] * frequencies  # (grid, dim / 4)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, dim / 2)
    rows = axis[:, None].expand(grid, grid, dim // 2)
    columns = axis[None, :].expand(grid, grid, dim // 2)
    patches = torch.cat([rows, columns], dim=2).reshape(grid * grid, dim)
    return torch.cat([torch.zeros(1, dim), patches])
