"""Point to region: a query reads the patches of its own cell and nothing else (TokenPacker, arXiv 2407.02392, §3.2)."""

from torch import Tensor, nn

from components.methods.blocks.token_reduction import cells

NORM_EPSILON = 1e-6  # of the layer norms


class CellAttention(nn.Module):
    """Cross attention inside cells, from patches of several layers of the tower; without a residual connection."""

    def __init__(self, num_layers: int, width: int, num_heads: int) -> None:
        super().__init__()
        channels = num_layers * width
        # A bias of the norm of the keys would add the same to all scores of a query, which the
        # softmax takes away.
        self.key = nn.Sequential(
            *perceptron(channels, width), nn.LayerNorm(width, NORM_EPSILON, bias=False)
        )
        self.value = nn.Sequential(*perceptron(channels, width), nn.LayerNorm(width, NORM_EPSILON))
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)

    def forward(self, queries: Tensor, patches: Tensor) -> Tensor:
        """Queries (pictures, cells, width), patches (pictures, patches, layers · width) -> (pictures, cells, width)."""
        sides = (self.key(patches), self.value(patches))
        keys, values = (cells(side, queries.shape[1]).flatten(0, 1) for side in sides)
        read, _ = self.attention(queries.flatten(0, 1)[:, None], keys, values, need_weights=False)
        return read.view_as(queries)


def perceptron(channels: int, width: int) -> nn.Sequential:
    """Linear, GELU, Linear: (…, channels) -> (…, width)."""
    return nn.Sequential(nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width))
