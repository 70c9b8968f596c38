"""Many questions about one picture in one sequence, none of which sees another.

A sequence is a shared prefix (the beginning of the chat with the image tokens) and blocks, one per question with its
answer. A block attends to the prefix and to itself, and its positions go on from the prefix: each answer is learnt just
as if it had been asked alone, while the picture is read once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from components.losses.autoregressive import IGNORE_INDEX


class Block(NamedTuple):
    """One question with its answer: token ids, and how many of them at the end are the answer."""

    input_ids: Sequence[int]
    num_answer_tokens: int


class PackedBatch(NamedTuple):
    """Right-padded sequences of a prefix and its blocks."""

    input_ids: Tensor  # (batch, tokens) int64
    labels: Tensor  # (batch, tokens) int64, IGNORE_INDEX outside answers; not shifted
    position_ids: Tensor  # (batch, tokens) int64
    attention_mask: Tensor  # (batch, 1, tokens, tokens) bool, True = attends


def pack(prefixes: Sequence[Sequence[int]], blocks: Sequence[Sequence[Block]], pad_id: int) -> PackedBatch:
    """Pack row i's blocks behind its prefix; `prefixes[i]` ends where a question starts."""
    lengths = [len(p) + sum(len(b.input_ids) for b in row) for p, row in zip(prefixes, blocks, strict=True)]
    shape = (len(prefixes), max(lengths))
    input_ids = torch.full(shape, pad_id)
    labels = torch.full(shape, IGNORE_INDEX)
    position_ids = torch.zeros(shape, dtype=torch.int64)
    block_ids = torch.full(shape, -1)  # 0 = prefix, 1.. = blocks, -1 = padding
    for row, (prefix, row_blocks) in enumerate(zip(prefixes, blocks, strict=True)):
        start = len(prefix)
        input_ids[row, :start] = torch.tensor(prefix)
        position_ids[row, :start] = torch.arange(start)
        block_ids[row, :start] = 0
        for number, block in enumerate(row_blocks, start=1):
            end = start + len(block.input_ids)
            input_ids[row, start:end] = torch.tensor(block.input_ids)
            labels[row, end - block.num_answer_tokens : end] = input_ids[row, end - block.num_answer_tokens : end]
            position_ids[row, start:end] = torch.arange(len(prefix), len(prefix) + len(block.input_ids))
            block_ids[row, start:end] = number
            start = end
    return PackedBatch(input_ids, labels, position_ids, shared_prefix_mask(block_ids))


def shared_prefix_mask(block_ids: Tensor) -> Tensor:
    """Causal mask in which a token sees the prefix (block 0) and its own block.

    Args:
        block_ids: (batch, tokens) int64; padding has a number of its own.

    Returns:
        (batch, 1, tokens, tokens) bool, True where the row attends to the column.
    """
    queries, keys = block_ids[:, :, None], block_ids[:, None, :]
    causal = torch.ones(block_ids.shape[1], block_ids.shape[1], dtype=torch.bool).tril()
    return (((keys == 0) | (keys == queries)) & causal)[:, None]
