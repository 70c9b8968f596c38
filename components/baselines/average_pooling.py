"""Average pooling, the plainest reducer: with as many cells as patches it is LLaVA itself."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from components.methods.blocks.token_reduction import (
    Reducer,
    reducing_method,
    square_counts,
)
from components.methods.blocks.vision_tower import Reading, TowerShape
from components.methods.method_settings import NoSettings
from components.model.pooling import average_pool


class AveragePooling(Reducer):
    """Average what the connector makes of the patches over square cells."""

    Settings = NoSettings
    uses_connector = True

    @staticmethod
    def counts(shape: TowerShape, settings: Any) -> Sequence[int]:
        """Return the numbers of square cells."""
        return square_counts(shape)

    def forward(self, reading: Reading) -> Tensor:
        """Return tokens, (pictures, num_tokens, dim)."""
        return average_pool(self.connect(reading.patches[0]), self.num_tokens)


METHOD = reducing_method(AveragePooling)
