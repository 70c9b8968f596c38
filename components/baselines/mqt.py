"""Matryoshka Query Transformer (arXiv 2405.19315, §3): learned queries, any first ones of which do.

One layer of cross attention in place of the connector. Its keys are made of positions alone, so
that each query is a pooling of places that is the same for all pictures; no query sees another.
Trained with a drawn number of queries.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components.methods.blocks.token_reduction import (
    Connect,
    Reduced,
    Reducer,
    check_heads,
    reducing_method,
)
from components.methods.blocks.vision_tower import Reading, TowerShape
from components.model.prepared import PreparedPictures
from components.params import Params

QUERY_STD = 0.02  # of the first queries
LONGEST_PERIOD = 10000  # of the sines, in positions, as in "Attention is all you need"


class MatryoshkaQueriesParams(Params):
    """Settings of MQT."""

    # a square: they lie on a grid of their own; the most tokens of a picture
    num_queries: int = Field(ge=1)
    num_heads: int = Field(ge=1)  # of the cross attention
    token_scale: float = Field(gt=0)  # factor of the tokens


class MatryoshkaQueries(Reducer):
    """Read patches with queries and positions by one cross attention, at the tower's width."""

    Settings = MatryoshkaQueriesParams
    uses_connector = False
    query_positions: Tensor
    key_positions: Tensor

    def __init__(
        self,
        shape: TowerShape,
        num_tokens: int,
        settings: MatryoshkaQueriesParams,
        connect: Connect,
    ) -> None:
        super().__init__(shape, num_tokens, settings, connect)
        width, count = shape.channels, settings.num_queries
        self.token_scale = settings.token_scale
        check_heads("components/baselines/mqt.yaml", settings.num_heads, width)

        # fixed positions: a grid of queries over the grid of patches
        positions = grid_positions(round(count**0.5), width)
        of_patches = resized(positions, shape.side)
        self.register_buffer("query_positions", positions.flatten(0, 1), persistent=False)
        self.register_buffer("key_positions", of_patches.flatten(0, 1), persistent=False)

        self.queries = nn.Parameter(nn.init.trunc_normal_(torch.empty(count, width), std=QUERY_STD))
        self.query_norm, self.value_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        # a bias would add the same to all scores of a query: no effect
        self.key_norm = nn.LayerNorm(width, bias=False)
        self.attention = nn.MultiheadAttention(width, settings.num_heads, batch_first=True)
        self.projection = nn.Parameter(torch.randn(width, shape.dim) * shape.dim**-0.5)

    @staticmethod
    def counts(shape: TowerShape, settings: Any) -> Sequence[int]:
        """Return 1 to the number of queries. Raises ValueError if that number is no square."""
        if round(settings.num_queries**0.5) ** 2 != settings.num_queries:
            raise ValueError(
                f"components/baselines/mqt.yaml: num_queries: {settings.num_queries} is no square "
                "number; take one"
            )
        return range(1, settings.num_queries + 1)

    def forward(self, reading: Reading) -> Tensor:
        """Return tokens, (pictures, num_tokens, dim)."""
        return self.first(self.num_tokens, reading)

    def first(self, count: int, reading: Reading) -> Tensor:
        """Return what the first queries read: (pictures, count, dim)."""
        # the picture is in the values alone
        patches = reading.patches[0].to(self.queries.dtype)
        queries = self.query_norm(self.queries[:count] + self.query_positions[:count])
        queries = queries.expand(len(patches), -1, -1)
        keys = self.key_norm(self.key_positions).expand(len(patches), -1, -1)

        read, _ = self.attention(queries, keys, self.value_norm(patches), need_weights=False)
        return (self.token_scale * (read @ self.projection)).to(reading.patches[0].dtype)


class MatryoshkaQueried(Reduced):
    """A LLaVA that reads the first queries, as many as it is asked to."""

    reducer: MatryoshkaQueries

    def compress_for_training(self, pictures: PreparedPictures) -> Tensor:
        """Return the tokens of all queries; each conversation gets the first of them."""
        return self.reducer.first(len(self.reducer.queries), self.reading(pictures))

    def budgets(self, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """Return 1, the even numbers below the number of queries, and that number."""
        most = len(self.reducer.queries)
        return tuple(sorted({1, *range(2, most, 2), most}))

    def keep_first(self, num_summary_tokens: int) -> None:
        """Ask so many queries. Raises ValueError when there are fewer."""
        most = len(self.reducer.queries)
        if not 1 <= num_summary_tokens <= most:
            raise ValueError(
                f"{num_summary_tokens} summary tokens of a model with {most} queries; take 1 to "
                f"{most}"
            )
        self.make(num_summary_tokens)


def grid_positions(side: int, width: int) -> Tensor:
    """Return sines and cosines of rows (first half) and columns of a grid: (side, side, width)."""
    if width % 4:
        raise ValueError(
            f"mqt: positions on a grid take a multiple of 4 channels, and the vision tower has "
            f"{width}"
        )

    # a geometric row of frequencies, the same along both axes
    frequencies = LONGEST_PERIOD ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * frequencies
    along = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)

    return torch.cat([along[:, None].expand(-1, side, -1), along[None].expand(side, -1, -1)], dim=2)


def resized(grid: Tensor, side: int) -> Tensor:
    """Interpolate a grid (rows, columns, width) to one of side × side places, bicubically."""
    channels_first = grid.permute(2, 0, 1)[None]
    return F.interpolate(channels_first, size=(side, side), mode="bicubic")[0].permute(1, 2, 0)


METHOD = reducing_method(MatryoshkaQueries, MatryoshkaQueried, num_stages=2)
