"""PruMerge and PruMerge+ (Shang et al., 2024, arXiv 2403.15388): keep the patches that the class token attends to.

Each kept patch takes in the patches whose keys are nearest to its own, weighted by the class
attention (§3.2), and one more token is the weighted sum of all that were pruned. Nothing has
weights, so both also work untrained.

The number kept is that of the budget. In the paper the share of outliers of a picture's attention
decides it, which leaves tokens of other pictures out of step and is no budget.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from components.methods.blocks.token_reduction import Connect, Reducer
from components.methods.blocks.vision_tower import Needs, Reading, TowerShape
from components.params import Params


class PruMergeParams(Params):
    """How much is merged."""

    num_neighbours: int = Field(ge=1)  # patches that a kept one takes in


class PruMergePlusParams(PruMergeParams):
    """And how much is kept wherever the attention is."""

    grid_share: float = Field(ge=0, le=1)  # of the kept patches, on a regular grid


class PruMerge(Reducer):
    """num_tokens - 1 kept patches by falling attention, and one token of the others."""

    Settings: ClassVar[type[Params]] = PruMergeParams
    uses_connector = True
    needs = Needs(attention=True)

    def __init__(
        self, shape: TowerShape, num_tokens: int, settings: PruMergeParams, connect: Connect
    ) -> None:
        super().__init__(shape, num_tokens, settings, connect)
        self.num_neighbours = settings.num_neighbours
        if self.num_neighbours >= shape.side**2:
            raise ValueError(
                f"num_neighbours {self.num_neighbours}: a patch has {shape.side**2 - 1} others to merge with on this "
                "base model; use fewer"
            )

    @staticmethod
    def counts(shape: TowerShape, settings: Any) -> Sequence[int]:
        """One patch kept and the token of the others, up to one patch pruned."""
        return range(2, shape.side**2 + 1)

    def forward(self, reading: Reading) -> Tensor:
        """-> (pictures, num_tokens, dim)."""
        assert reading.attention is not None
        assert reading.keys is not None
        attention, keys, patches = (
            part.float() for part in (reading.attention, reading.keys, reading.patches[0])
        )
        kept = self.kept(attention, self.num_tokens - 1)
        return self.connect(merge(patches, attention, keys, kept, self.num_neighbours))

    def kept(self, attention: Tensor, count: int) -> Tensor:
        """Attention (pictures, patches) -> the kept patches in the order of their tokens: (pictures, count)."""
        return highest(attention, count)


class PruMergePlus(PruMerge):
    """The first of the kept patches are the best, the last are on a regular grid, and none is kept twice.

    Half and half, as in training: the paper's 144 are 72 and 72, every eighth patch from the fifth
    on.
    """

    Settings = PruMergePlusParams
    grid: Tensor  # positions

    def __init__(
        self, shape: TowerShape, num_tokens: int, settings: PruMergePlusParams, connect: Connect
    ) -> None:
        super().__init__(shape, num_tokens, settings, connect)
        num_on_grid = int(settings.grid_share * (num_tokens - 1))
        self.register_buffer("grid", regular_grid(shape.side**2, num_on_grid), persistent=False)

    def kept(self, attention: Tensor, count: int) -> Tensor:
        """By falling attention, then the grid in raster order."""
        grid = self.grid.expand(len(attention), -1)
        elsewhere = attention.scatter(1, grid, -1.0)  # attention is never below 0
        return torch.cat([highest(elsewhere, count - len(self.grid)), grid], dim=1)


def regular_grid(num_patches: int, count: int) -> Tensor:
    """Positions at equal distances, the first and the last half a step from the ends: (count,)."""
    return ((torch.arange(count) + 0.5) * num_patches / max(count, 1)).long()


def highest(attention: Tensor, count: int) -> Tensor:
    """The patches with most attention, (pictures, patches) -> positions (pictures, count); of equal ones the first."""
    return attention.argsort(dim=1, descending=True, stable=True)[:, :count]


def merge(
    patches: Tensor, attention: Tensor, keys: Tensor, kept: Tensor, num_neighbours: int
) -> Tensor:
    """x_i + Σ a_j x_j over the neighbours j of each kept i, and Σ a_j x_j over the pruned.

    patches, keys: (pictures, patches, channels); attention: (pictures, patches); kept: (pictures,
    kept) positions.
    -> (pictures, kept + 1, channels).
    """
    is_neighbour = nearest(keys, kept, num_neighbours)
    is_pruned = torch.ones_like(attention).scatter(1, kept, 0.0)
    sums = (torch.cat([is_neighbour, is_pruned[:, None]], dim=1) * attention[:, None]) @ patches
    unmerged = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[2]))
    return sums + F.pad(unmerged, (0, 0, 0, 1))  # the last token has no patch of its own


def nearest(keys: Tensor, kept: Tensor, num_neighbours: int) -> Tensor:
    """1.0 for the patches with the most similar keys, by the cosine, to that of each kept one, itself not counted.

    (pictures, kept, patches), whether the neighbours are kept or not.
    """
    directions = F.normalize(keys, dim=-1)
    own = directions.gather(1, kept[..., None].expand(-1, -1, keys.shape[2]))
    similarity = (own @ directions.transpose(1, 2)).scatter(2, kept[..., None], -torch.inf)
    neighbours = similarity.topk(num_neighbours, dim=2).indices
    return torch.zeros_like(similarity).scatter(2, neighbours, 1.0)
