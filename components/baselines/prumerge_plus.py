"""PruMerge+ (Shang et al., 2024, arXiv 2403.15388): PruMerge with some patches kept on a grid.

Half and half, as in training: the paper's 144 are 72 and 72, every eighth patch from the fifth on.
Nothing has weights, so it also works untrained.
"""

import torch
from pydantic import Field
from torch import Tensor

from components.methods.blocks.patch_merging import PatchMerging, highest
from components.methods.blocks.token_reduction import Connect, reducing_method
from components.methods.blocks.vision_tower import TowerShape
from components.params import Params


class PruMergePlusParams(Params):
    """Settings of PruMerge+."""

    num_neighbours: int = Field(ge=1)  # patches that a kept one takes in
    # of the kept patches, on a regular grid whatever the attention
    grid_share: float = Field(ge=0, le=1)


class PruMergePlus(PatchMerging):
    """Keep the best patches, then those on a regular grid; none is kept twice."""

    Settings = PruMergePlusParams
    grid: Tensor  # positions

    def __init__(
        self, shape: TowerShape, num_tokens: int, settings: PruMergePlusParams, connect: Connect
    ) -> None:
        super().__init__(shape, num_tokens, settings, connect)
        num_on_grid = int(settings.grid_share * (num_tokens - 1))
        self.register_buffer("grid", regular_grid(shape.side**2, num_on_grid), persistent=False)

    def kept(self, attention: Tensor, count: int) -> Tensor:
        """Return patches by falling attention, then the grid in raster order: (pictures, count)."""
        # the grid's patches are out of the ranking
        grid = self.grid.expand(len(attention), -1)
        elsewhere = attention.scatter(1, grid, -1.0)  # attention is never below 0
        return torch.cat([highest(elsewhere, count - len(self.grid)), grid], dim=1)


def regular_grid(num_patches: int, count: int) -> Tensor:
    """Return positions at equal distances, the outer ones half a step from the ends: (count,)."""
    return ((torch.arange(count) + 0.5) * num_patches / max(count, 1)).long()


METHOD = reducing_method(PruMergePlus)
