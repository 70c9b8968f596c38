"""STF and MBTF, spatial and multi-block token fusion (Tang & Shen, 2025, arXiv 2506.07138).

MBTF concatenates the channels of several layers of the tower and takes them back to its width by an
MLP, patch by patch. STF lays the patches of each square cell end to end, without weights; a wider
MLP in place of the connector takes them into the language model. Both MLPs are trained from the
first stage on.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from components.methods.blocks.token_reduction import (
    Connect,
    Reducer,
    mlp,
    reducing_method,
    square_counts,
)
from components.methods.blocks.vision_tower import Needs, Reading, TowerShape
from components.model.pooling import cells
from components.params import Params


class SpatialTokenFusionParams(Params):
    """Settings of STF; widths are in multiples of the tower's."""

    layers: tuple[int, ...] = Field(min_length=1)  # hidden states, -1 the last of the tower
    fusion_width: int = Field(ge=1)  # of MBTF's hidden layer
    projector_width: int = Field(ge=1)  # of the projector's hidden layer
    initialization: Literal["kaiming", "xavier"]  # of all linear layers; PyTorch's own is Kaiming's
    token_scale: float = Field(gt=0)  # factor of the tokens


class SpatialTokenFusion(Reducer):
    """Fuse layers by MBTF, then cells by STF, then project."""

    Settings = SpatialTokenFusionParams
    uses_connector = False

    def __init__(
        self,
        shape: TowerShape,
        num_tokens: int,
        settings: SpatialTokenFusionParams,
        connect: Connect,
    ) -> None:
        super().__init__(shape, num_tokens, settings, connect)
        self.needs = Needs(layers=settings.layers)
        self.token_scale = settings.token_scale

        # both MLPs start anew, the base model's connector is not used
        channels, patches_per_cell = shape.channels, shape.side**2 // num_tokens
        of_all_layers, of_a_cell = len(settings.layers) * channels, patches_per_cell * channels
        self.fusion = mlp(of_all_layers, settings.fusion_width * channels, channels)
        self.projector = mlp(of_a_cell, settings.projector_width * channels, shape.dim)

        for layer in (*self.fusion, *self.projector):
            if isinstance(layer, nn.Linear):
                INITIALIZATIONS[settings.initialization](layer)

    @staticmethod
    def counts(shape: TowerShape, settings: Any) -> Sequence[int]:
        """Return the numbers of square cells; the paper has cells of 2 × 2."""
        return square_counts(shape)

    def forward(self, reading: Reading) -> Tensor:
        """Return tokens, (pictures, num_tokens, dim)."""
        fused = self.fusion(torch.cat(reading.patches, dim=-1).float())
        tokens = self.token_scale * self.projector(end_to_end(fused, self.num_tokens))
        return tokens.to(reading.patches[0].dtype)


def end_to_end(patches: Tensor, num_cells: int) -> Tensor:
    """Lay patches (pictures, side², channels) of each cell end to end, as STF does.

    The result is (pictures, num_cells, channels · patches of a cell), channel by channel, so that a
    linear layer behind it is a convolution with stride.
    """
    return cells(patches, num_cells).transpose(2, 3).flatten(2)


def xavier(layer: nn.Linear) -> None:
    """Draw Glorot & Bengio's uniform weights; biases become 0."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)


INITIALIZATIONS: dict[str, Callable[[nn.Linear], None]] = {
    "kaiming": nn.Linear.reset_parameters,
    "xavier": xavier,
}
METHOD = reducing_method(SpatialTokenFusion, num_stages=2)
