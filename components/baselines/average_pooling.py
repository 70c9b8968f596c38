"""The plainest reducer: the image tokens of each cell of the grid, averaged. With all of them, LLaVA itself."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from components.methods.blocks.token_reduction import Reducer, square_counts
from components.methods.blocks.vision_tower import Reading, TowerShape
from components.methods.method_settings import NoSettings
from components.model.pooling import average_pool


class AveragePooling(Reducer):
    """Means over square cells of what the connector makes of the patches."""

    Settings = NoSettings
    uses_connector = True

    @staticmethod
    def counts(shape: TowerShape, settings: Any) -> Sequence[int]:
        """Those of square cells."""
        return square_counts(shape)

    def forward(self, reading: Reading) -> Tensor:
        """-> (pictures, num_tokens, dim)."""
        return average_pool(self.connect(reading.patches[0]), self.num_tokens)
