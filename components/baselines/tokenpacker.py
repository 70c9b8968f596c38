"""TokenPacker (Li et al., 2024, arXiv 2407.02392): a coarse picture asks the fine one for details.

A query is a patch of the down-sampled grid; it attends to the patches of its own cell, as several
layers of the tower have them, and takes the place of the cell (§3.2). The MLP that takes it into
the language model has the shape of LLaVA's connector, from whose weights it starts here.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components.methods.blocks.cell_attention import NORM_EPSILON, CellAttention
from components.methods.blocks.token_reduction import (
    Connect,
    Reducer,
    check_heads,
    reducing_method,
    square_counts,
)
from components.methods.blocks.vision_tower import Needs, Reading, TowerShape
from components.params import Params

INITIAL_STD = 0.02  # of linear layers


class TokenPackerParams(Params):
    """Settings of TokenPacker; every width is the tower's or the language model's."""

    # hidden states attended to, -1 the last of the tower; the first is the query's too
    layers: tuple[int, ...] = Field(min_length=1)
    num_heads: int = Field(ge=1)  # of the attention


class TokenPacker(Reducer):
    """Attend once, cell by cell; the connector comes behind."""

    Settings = TokenPackerParams
    uses_connector = True

    def __init__(
        self, shape: TowerShape, num_tokens: int, settings: TokenPackerParams, connect: Connect
    ) -> None:
        super().__init__(shape, num_tokens, settings, connect)
        width = shape.channels
        check_heads("components/baselines/tokenpacker.yaml", settings.num_heads, width)
        self.needs = Needs(layers=settings.layers)

        # the connector behind has its weights already; these start small
        to_query = nn.Linear(width, width, bias=False)
        self.query = nn.Sequential(to_query, nn.LayerNorm(width, NORM_EPSILON))
        self.read_cells = CellAttention(len(settings.layers), width, settings.num_heads)
        start_small(self)

    @staticmethod
    def counts(shape: TowerShape, settings: Any) -> Sequence[int]:
        """Return the numbers of square cells; one of one patch leaves nothing to attend to."""
        return [count for count in square_counts(shape) if count < shape.side**2]

    def forward(self, reading: Reading) -> Tensor:
        """Return tokens, (pictures, num_tokens, dim)."""
        patches = torch.cat(reading.patches, dim=-1).float()
        queries = self.query(down_sampled(reading.patches[0].float(), self.num_tokens))
        return self.connect(self.read_cells(queries, patches))


def down_sampled(patches: Tensor, num_tokens: int) -> Tensor:
    """Interpolate (pictures, side², channels) to (pictures, num_tokens, channels), bilinearly.

    Both grids are in raster order. This reads the middle of each cell: one patch, or the mean of
    four.
    """
    # interpolation wants (pictures, channels, rows, columns)
    side, per_side = round(patches.shape[1] ** 0.5), round(num_tokens**0.5)
    grid = patches.transpose(1, 2).unflatten(2, (side, side))
    smaller = F.interpolate(grid, size=(per_side, per_side), mode="bilinear")
    return smaller.flatten(2).transpose(1, 2)


def start_small(module: nn.Module) -> None:
    """Draw first weights of all linear layers from a truncated normal; biases become 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=INITIAL_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


METHOD = reducing_method(TokenPacker, num_stages=2)
