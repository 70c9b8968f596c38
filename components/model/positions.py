"""Position embeddings of patches that are computed, not learned."""

import math

import torch


def sincos_positions(grid: int, dim: int) -> torch.Tensor:
    """Return sine and cosine position embeddings of a square grid, (1 + grid * grid, dim).

    Zeros for the class token, then row by row. A random start of deviation 0.02 made positions
    slow to learn in a small tower.
    """
    # Wavelengths of "Attention is all you need" (arXiv 1706.03762, §3.5).
    frequencies = torch.exp(torch.arange(dim // 4) * (-math.log(10_000.0) / (dim // 4)))
    angles = torch.arange(grid)[:, None] * frequencies  # (grid, dim / 4)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, dim / 2)

    # Half of the dimensions say the row, the other half the column.
    rows = axis[:, None].expand(grid, grid, dim // 2)
    columns = axis[None, :].expand(grid, grid, dim // 2)
    patches = torch.cat([rows, columns], dim=2).reshape(grid * grid, dim)
    return torch.cat([torch.zeros(1, dim), patches])
