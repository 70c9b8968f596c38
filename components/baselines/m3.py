"""Matryoshka Multimodal Models (arXiv 2405.17430, §3): average pooling, learned at many scales.

One model reads pictures at every scale of a nested set. Its paper runs each batch once per scale
and averages the losses; here each conversation of a step draws one scale, whose loss has that
average as its expectation.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from components.methods.blocks.token_reduction import (
    Connect,
    Reduced,
    Reducer,
    reducing_method,
    square_counts,
)
from components.methods.blocks.vision_tower import Reading, TowerShape
from components.model.pooling import cells
from components.model.prepared import PreparedPictures
from components.params import Params


class MatryoshkaPoolingParams(Params):
    """Settings of M3."""

    # numbers of tokens: squares that nest
    scales: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)


class MatryoshkaPooling(Reducer):
    """Average patches over the square cells of one of the scales."""

    Settings = MatryoshkaPoolingParams
    uses_connector = True

    def __init__(
        self,
        shape: TowerShape,
        num_tokens: int,
        settings: MatryoshkaPoolingParams,
        connect: Connect,
    ) -> None:
        super().__init__(shape, num_tokens, settings, connect)
        self.scales: tuple[int, ...] = settings.scales

    @staticmethod
    def counts(shape: TowerShape, settings: Any) -> Sequence[int]:
        """Return the scales.

        Raises ValueError for one that is no number of cells, or that the finest cannot be pooled
        to.
        """
        # a conversation's scale is pooled from the finest, so cells must lie in cells
        finest = max(settings.scales)
        allowed = [count for count in square_counts(shape) if finest**0.5 % count**0.5 == 0]
        if not set(settings.scales) <= set(allowed):
            raise ValueError(
                f"components/baselines/m3.yaml: scales: {settings.scales} are no scales of "
                f"{shape.side} × {shape.side} patches that nest in {finest}; take some of {allowed}"
            )
        return settings.scales

    def forward(self, reading: Reading) -> Tensor:
        """Return tokens, (pictures, num_tokens, dim)."""
        return self.pooled(reading, self.num_tokens)

    def pooled(self, reading: Reading, scale: int) -> Tensor:
        """Return the tokens of a scale, (pictures, scale, dim)."""
        return cells(self.connect(reading.patches[0]), scale).mean(2)


class MatryoshkaPooled(Reduced):
    """A LLaVA that reads pictures at any of the scales."""

    reducer: MatryoshkaPooling

    def compress_for_training(self, pictures: PreparedPictures) -> Tensor:
        """Return the tokens of the finest scale; means of them are the tokens of any other."""
        return self.reducer.pooled(self.reading(pictures), max(self.reducer.scales))

    def budgets(self, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """Return the scales."""
        return self.reducer.scales

    def cut(self, tokens: Tensor, budgets: Tensor) -> Tensor:
        """Pool each row (rows, tokens, dim) to its scale (rows,): (…, dim), row after row."""
        rows = zip(tokens.split(1), budgets.tolist(), strict=True)
        return torch.cat([cells(row, budget).mean(2)[0] for row, budget in rows])

    def keep_first(self, num_summary_tokens: int) -> None:
        """Make another of the scales. Raises ValueError when it is none."""
        if num_summary_tokens not in self.reducer.scales:
            raise ValueError(
                f"{num_summary_tokens} tokens are no scale of this model; it has "
                f"{self.reducer.scales}"
            )
        self.make(num_summary_tokens)


METHOD = reducing_method(MatryoshkaPooling, MatryoshkaPooled)
