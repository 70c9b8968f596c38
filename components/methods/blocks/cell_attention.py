"""Cell attention: a query reads the patches of its cell (TokenPacker, arXiv 2407.02392, §3.2)."""

from torch import Tensor, nn

from components.methods.blocks.token_reduction import mlp
from components.model.pooling import cells

NORM_EPSILON = 1e-6  # of the layer norms


class CellAttention(nn.Module):
    """Cross attention inside cells to patches of several layers; without a residual connection."""

    def __init__(self, num_layers: int, width: int, num_heads: int) -> None:
        super().__init__()
        channels = num_layers * width
        # A bias of the norm of the keys would add the same to all scores of a query, which the
        # softmax takes away.
        key_norm = nn.LayerNorm(width, NORM_EPSILON, bias=False)
        self.key = nn.Sequential(*mlp(channels, width, width), key_norm)
        value_norm = nn.LayerNorm(width, NORM_EPSILON)
        self.value = nn.Sequential(*mlp(channels, width, width), value_norm)
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)

    def forward(self, queries: Tensor, patches: Tensor) -> Tensor:
        """Read each query's cell: (pictures, cells, width).

        queries: (pictures, cells, width); patches: (pictures, patches, layers · width).
        """
        # every cell is a row of its own, with one query
        num_cells = queries.shape[1]
        keys = cells(self.key(patches), num_cells).flatten(0, 1)
        values = cells(self.value(patches), num_cells).flatten(0, 1)
        asked = queries.flatten(0, 1)[:, None]
        read, _ = self.attention(asked, keys, values, need_weights=False)
        return read.view_as(queries)
