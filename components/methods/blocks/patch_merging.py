"""Patch merging: kept patches take in those that are like them (PruMerge, arXiv 2403.15388, §3.2).

Each kept patch takes in the patches whose keys are nearest to its own, weighted by the class
attention, and one more token is the weighted sum of all that were pruned. Nothing has weights.

The number kept is that of the budget. In the paper the share of outliers of a picture's attention
decides it, which leaves tokens of other pictures out of step and is no budget.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from components.methods.blocks.token_reduction import Connect, Reducer
from components.methods.blocks.vision_tower import Needs, Reading, TowerShape


class PatchMerging(Reducer):
    """Make num_tokens - 1 tokens of kept patches, and one of all others.

    The settings have `num_neighbours`, the patches that a kept one takes in.
    """

    uses_connector = True
    needs = Needs(attention=True)

    def __init__(self, shape: TowerShape, num_tokens: int, settings: Any, connect: Connect) -> None:
        super().__init__(shape, num_tokens, settings, connect)
        self.num_neighbours: int = settings.num_neighbours
        if self.num_neighbours >= shape.side**2:
            raise ValueError(
                f"num_neighbours {self.num_neighbours}: a patch has {shape.side**2 - 1} others to "
                "merge with on this base model; use fewer"
            )

    @staticmethod
    def counts(shape: TowerShape, settings: Any) -> Sequence[int]:
        """Return all numbers from one kept patch and the token of the others to one pruned."""
        return range(2, shape.side**2 + 1)

    def forward(self, reading: Reading) -> Tensor:
        """Return tokens, (pictures, num_tokens, dim)."""
        assert reading.attention is not None
        assert reading.keys is not None
        # in half precision many patches would have the same attention
        attention, keys = reading.attention.float(), reading.keys.float()
        kept = self.kept(attention, self.num_tokens - 1)
        merged = merge(reading.patches[0].float(), attention, keys, kept, self.num_neighbours)
        return self.connect(merged)

    def kept(self, attention: Tensor, count: int) -> Tensor:
        """Choose the patches to keep by the attention (pictures, patches): (pictures, count)."""
        raise NotImplementedError


def highest(attention: Tensor, count: int) -> Tensor:
    """Return the patches with most attention (pictures, patches), of equal ones the first.

    Their positions are in falling order, (pictures, count).
    """
    return attention.argsort(dim=1, descending=True, stable=True)[:, :count]


def merge(
    patches: Tensor, attention: Tensor, keys: Tensor, kept: Tensor, num_neighbours: int
) -> Tensor:
    """Return x_i + Σ a_j x_j over the neighbours j of each kept i, and Σ a_j x_j over the pruned.

    patches, keys: (pictures, patches, channels); attention: (pictures, patches); kept: positions,
    (pictures, kept). The result is (pictures, kept + 1, channels).
    """
    # both sums as one product: a row of 0 and 1 for each token, times the attention
    is_neighbour = nearest(keys, kept, num_neighbours)
    is_pruned = torch.ones_like(attention).scatter(1, kept, 0.0)
    sums = (torch.cat([is_neighbour, is_pruned[:, None]], dim=1) * attention[:, None]) @ patches

    unmerged = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[2]))
    return sums + F.pad(unmerged, (0, 0, 0, 1))  # the last token has no patch of its own


def nearest(keys: Tensor, kept: Tensor, num_neighbours: int) -> Tensor:
    """Mark the patches with keys most similar, by the cosine, to that of each kept one.

    The result is 1.0 or 0.0, (pictures, kept, patches). A patch is no neighbour of itself; other
    kept ones may be.
    """
    # cosines of each kept patch to all; -inf to itself
    directions = F.normalize(keys, dim=-1)
    own = directions.gather(1, kept[..., None].expand(-1, -1, keys.shape[2]))
    similarity = (own @ directions.transpose(1, 2)).scatter(2, kept[..., None], -torch.inf)

    neighbours = similarity.topk(num_neighbours, dim=2).indices
    return torch.zeros_like(similarity).scatter(2, neighbours, 1.0)
