"""Choosing the tokens of answers, for many rows at once: the likeliest ones, or drawn ones.

A row draws from random numbers of its own, which follow from the seed, the picture and the question
alone. So its answer does not depend on the rows beside it.
"""

import hashlib
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from components.model.generation import Choose
from components.params import Params


class DecodingParams(Params):
    """Settings of the choice of tokens."""

    max_new_tokens: int = Field(ge=1)
    # 0: always the likeliest token; top_p and seed then decide nothing
    temperature: float = Field(ge=0, allow_inf_nan=False)
    # draw from the likeliest tokens that together have this probability
    top_p: float = Field(gt=0, le=1)
    seed: int


def chooser(draws: Tensor, params: DecodingParams) -> Choose:
    """Return the function that chooses tokens; draws: (rows, max_new_tokens), from 0 to 1."""
    return lambda logits, rows, step: choose(logits, draws[rows, step], params)


def choose(logits: Tensor, draws: Tensor, params: DecodingParams) -> Tensor:
    """Choose a token per row: logits (rows, vocab), draws (rows,) from 0 to 1 -> (rows,)."""
    if params.temperature == 0:
        return logits.argmax(-1)

    # in float64, since sums over the vocabulary follow; equal tokens keep their order
    probabilities, tokens = (
        (logits.double() / params.temperature)
        .softmax(-1)
        .sort(dim=-1, descending=True, stable=True)
    )

    # nucleus: a token is out if the likelier ones reach top_p without it
    is_out = probabilities.cumsum(-1) - probabilities >= params.top_p
    ends = probabilities.masked_fill(is_out, 0).cumsum(-1)

    # scaled to the sum of the rest; rounding may put a draw one past the last token
    places = torch.searchsorted(ends, draws[:, None] * ends[:, -1:], right=True)
    return tokens.gather(1, places.minimum((~is_out).sum(-1, keepdim=True) - 1))[:, 0]


def row_draws(keys: Sequence[tuple[str, ...]], params: DecodingParams) -> Tensor:
    """Draw the random numbers of rows: (rows, max_new_tokens).

    A key names the picture and the question of its row.
    """
    draws = torch.zeros(len(keys), params.max_new_tokens, dtype=torch.float64)
    if params.temperature == 0:
        return draws

    for row, key in enumerate(keys):
        digest = hashlib.sha256(repr((params.seed, *key)).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        torch.rand(params.max_new_tokens, generator=generator, dtype=torch.float64, out=draws[row])
    return draws
