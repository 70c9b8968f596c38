"""TokenPacker (Li et al., 2024, arXiv 2407.02392): a coarse picture asks the fine one for what it lost.

A query is a patch of the down-sampled grid; it attends to the patches of its own cell, as several layers of the tower
have them, and takes the place of the cell (§3.2). An MLP in place of the connector takes it into the language model.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components.methods.reduced import Connect, Reducer, cells, square_counts
from components.methods.tower import Needs, Reading, TowerShape
from components.params import Params

EPSILON = 1e-6  # of the layer norms
DEVIATION = 0.02  # of the first weights of linear layers


class TokenPackerParams(Params):
    """What the queries attend to, and how; every width is the tower's or the language model's."""

    layers: tuple[int, ...] = Field(
        min_length=1
    )  # hidden states, -1 the last of the tower; the first is the query's too
    num_heads: int = Field(ge=1)  # of the attention


class TokenPacker(Reducer):
    """One attention layer without a residual connection, cell by cell."""

    Settings = TokenPackerParams
    uses_connector = False

    def __init__(self, shape: TowerShape, num_tokens: int, settings: TokenPackerParams, connect: Connect) -> None:
        super().__init__(shape, num_tokens, settings, connect)
        if shape.channels % settings.num_heads:
            raise ValueError(
                f"num_heads {settings.num_heads} does not divide the vision tower's width {shape.channels}; use a "
                "number that does"
            )
        self.needs = Needs(layers=settings.layers)
        width, all_layers = shape.channels, len(settings.layers) * shape.channels
        self.query = nn.Sequential(nn.Linear(width, width, bias=False), nn.LayerNorm(width, EPSILON))
        # A bias of the norm would add the same to all scores of a query, which the softmax takes away.
        self.key = nn.Sequential(*mlp(all_layers, width), nn.LayerNorm(width, EPSILON, bias=False))
        self.value = nn.Sequential(*mlp(all_layers, width), nn.LayerNorm(width, EPSILON))
        self.attention = nn.MultiheadAttention(width, settings.num_heads, batch_first=True)
        self.output = mlp(width, shape.dim)
        self.apply(initialize)

    @staticmethod
    def counts(shape: TowerShape, settings: Any) -> Sequence[int]:
        """Those of square cells; a cell of one patch would leave nothing to attend to."""
        return [count for count in square_counts(shape) if count < shape.side**2]

    def forward(self, reading: Reading) -> Tensor:
        """-> (pictures, num_tokens, dim)."""
        patches = torch.cat(reading.patches, dim=-1).float()
        queries = self.query(down_sampled(reading.patches[0].float(), self.num_tokens))
        keys, values = (cells(part(patches), self.num_tokens).flatten(0, 1) for part in (self.key, self.value))
        packed, _ = self.attention(queries.flatten(0, 1)[:, None], keys, values, need_weights=False)
        return self.output(packed.view_as(queries)).to(reading.patches[0].dtype)


def down_sampled(patches: Tensor, num_tokens: int) -> Tensor:
    """Bilinear: (pictures, side², channels) -> (pictures, num_tokens, channels), both grids in raster order.

    This reads the middle of each cell: one patch, or the mean of four.
    """
    side, per_side = round(patches.shape[1] ** 0.5), round(num_tokens**0.5)
    grid = patches.transpose(1, 2).unflatten(2, (side, side))
    return F.interpolate(grid, size=(per_side, per_side), mode="bilinear").flatten(2).transpose(1, 2)


def mlp(in_features: int, width: int) -> nn.Sequential:
    """Linear, GELU, Linear."""
    return nn.Sequential(nn.Linear(in_features, width), nn.GELU(), nn.Linear(width, width))


def initialize(module: nn.Module) -> None:
    """Truncated normal weights and no biases, for linear layers; layer norms begin as PyTorch's."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=DEVIATION)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
