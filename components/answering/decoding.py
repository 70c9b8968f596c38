"""Choosing the tokens of answers, for many rows at once: the likeliest ones, or drawn ones.

A row draws from random numbers of its own, which follow from the seed, the picture and the question
alone. So its answer does not depend on the rows beside it.
"""

import hashlib
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from components.answering.cached_reading import Read, read_on, select
from components.model.backbone import Backbone
from components.model.generation import end_token_ids
from components.params import Params

# share of the rows of a batch; with fewer unfinished ones the finished are taken out
LEAST_OPEN = 0.5


class DecodingParams(Params):
    """How an answer is written."""

    max_new_tokens: int = Field(ge=1)
    temperature: float = Field(
        ge=0, allow_inf_nan=False
    )  # 0: always the likeliest token; top_p and seed then decide nothing
    # draw from the likeliest tokens that together have this probability
    top_p: float = Field(gt=0, le=1)
    seed: int


def decode(
    backbone: Backbone, read: Read, hidden: Tensor, draws: Tensor, params: DecodingParams
) -> list[list[int]]:
    """Write answers to prompts that have been read: new token ids, without the end token.

    hidden: (rows, dim) of the last tokens of the prompts; draws: (rows, max_new_tokens), from 0 to
    1.
    """
    end_ids = torch.tensor(end_token_ids(backbone), device=backbone.device)
    written = torch.full(draws.shape, -1, device=backbone.device)
    # which prompt each row of the batch is
    rows = torch.arange(len(hidden), device=backbone.device)
    is_open = torch.ones_like(rows, dtype=torch.bool)
    for step in range(params.max_new_tokens):
        tokens = choose(backbone.lm_head(hidden), draws[rows, step], params)
        is_open &= ~torch.isin(tokens, end_ids)
        written[rows, step] = torch.where(is_open, tokens, -1)
        num_open = int(is_open.sum())
        if num_open == 0 or step == params.max_new_tokens - 1:
            break
        if num_open < LEAST_OPEN * len(rows):
            kept = is_open.nonzero()[:, 0]
            read, rows, tokens, is_open = (
                select(read, kept),
                rows[kept],
                tokens[kept],
                is_open[kept],
            )
        hidden, read = read_on(backbone, read, backbone.embed(tokens[:, None]), num_kept=1)
        hidden = hidden[:, 0]
    return [[token for token in row if token >= 0] for row in written.tolist()]


def choose(logits: Tensor, draws: Tensor, params: DecodingParams) -> Tensor:
    """The next token of each row: logits (rows, vocab), draws (rows,) from 0 to 1 -> (rows,)."""
    if params.temperature == 0:
        return logits.argmax(-1)
    probabilities, tokens = (
        (logits.double() / params.temperature)
        .softmax(-1)
        .sort(dim=-1, descending=True, stable=True)
    )
    is_out = probabilities.cumsum(-1) - probabilities >= params.top_p  # those before it are enough
    ends = probabilities.masked_fill(is_out, 0).cumsum(-1)
    places = torch.searchsorted(ends, draws[:, None] * ends[:, -1:], right=True)
    return tokens.gather(1, places.minimum((~is_out).sum(-1, keepdim=True) - 1))[:, 0]


def row_draws(keys: Sequence[tuple[str, ...]], params: DecodingParams) -> Tensor:
    """The random numbers of rows, each named by `keys` (its picture and its question): (rows, max_new_tokens)."""
    draws = torch.zeros(len(keys), params.max_new_tokens, dtype=torch.float64)
    if params.temperature == 0:
        return draws
    for row, key in enumerate(keys):
        digest = hashlib.sha256(repr((params.seed, *key)).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        torch.rand(params.max_new_tokens, generator=generator, dtype=torch.float64, out=draws[row])
    return draws
