"""Many questions about one picture in one sequence, and many such chats in one row.

A chat is a shared prefix (its beginning with the image tokens) and blocks, one per question with
its answer. A block attends to the prefix of its chat and to itself, and its positions go on from
the prefix: each answer is learnt just as if it had been asked alone, while the picture is read
once. Chats in the same row do not see each other, and each one's positions start at 0.

    row:     prefix 0   block 1   block 2 | prefix 0   block 1   padding
    sees:    itself     0, 1      0, 2    | itself     0, 1
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from components.losses.autoregressive import IGNORE_INDEX

PADDING = -1  # number of the chat that padding belongs to


class Block(NamedTuple):
    """A question with its answer, or a whole conversation."""

    input_ids: Sequence[int]
    labels: Sequence[int]  # IGNORE_INDEX outside answers


class Chat(NamedTuple):
    """A prefix that blocks share, and the blocks."""

    prefix: Sequence[int]
    blocks: Sequence[Block]

    @property
    def num_tokens(self) -> int:
        return len(self.prefix) + sum(len(block.input_ids) for block in self.blocks)


class PackedBatch(NamedTuple):
    """Right-padded rows of chats."""

    input_ids: Tensor  # (batch, tokens) int64
    labels: Tensor  # (batch, tokens) int64, IGNORE_INDEX outside answers; not shifted
    position_ids: Tensor  # (batch, tokens) int64
    # (batch, 1, tokens, tokens) bool, True = attends; or (batch, tokens) for plain rows
    attention_mask: Tensor
    order: Sequence[int]  # the chats, as they follow each other row by row


def pack(chats: Sequence[Chat], pad_id: int, row_tokens: int | None) -> PackedBatch:
    """Put chats into rows of at most `row_tokens` tokens.

    None: each into a row of its own, in the order given.
    """
    lengths = [chat.num_tokens for chat in chats]
    if row_tokens is None:
        rows = [[index] for index in range(len(chats))]
    else:
        rows = fill_rows(lengths, row_tokens)

    # rows of padding, as wide as the fullest one needs
    width = 0
    for row in rows:
        width = max(width, sum(lengths[index] for index in row))
    shape = (len(rows), width)
    input_ids = torch.full(shape, pad_id)
    labels = torch.full(shape, IGNORE_INDEX)
    position_ids = torch.zeros(shape, dtype=torch.int64)
    chat_ids, block_ids = torch.full(shape, PADDING), torch.zeros(shape, dtype=torch.int64)

    # block 0 is the prefix; the positions of all others go on from it
    for row_index, members in enumerate(rows):
        start = 0
        for number in members:
            prefix, blocks = chats[number]
            parts = [Block(prefix, [IGNORE_INDEX] * len(prefix)), *blocks]
            chat_ids[row_index, start : start + lengths[number]] = number
            for block_number, block in enumerate(parts):
                here = slice(start, start + len(block.input_ids))
                first = len(prefix) if block_number else 0
                input_ids[row_index, here] = torch.tensor(block.input_ids, dtype=torch.int64)
                labels[row_index, here] = torch.tensor(block.labels, dtype=torch.int64)
                position_ids[row_index, here] = torch.arange(first, first + len(block.input_ids))
                block_ids[row_index, here] = block_number
                start = here.stop

    mask, order = chat_mask(chat_ids, block_ids), list(chain.from_iterable(rows))
    return PackedBatch(input_ids, labels, position_ids, mask, order)


def fill_rows(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Put the longest first, each into the first row with room: indices of chats by row.

    One that is longer than a row stands alone.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        with_room = (row for row, free in enumerate(room) if free >= lengths[index])
        row = next(with_room, len(rows))
        if row == len(rows):
            rows.append([])
            room.append(row_tokens)
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows


def chat_mask(chat_ids: Tensor, block_ids: Tensor) -> Tensor:
    """Build a causal mask in which a token sees the prefix (block 0) and the block of its own.

    Args:
        chat_ids, block_ids: (batch, tokens) int64; padding is a chat of its own.

    Returns:
        (batch, 1, tokens, tokens) bool, True where the row attends to the column.
    """
    is_same_chat = chat_ids[:, :, None] == chat_ids[:, None, :]
    queries, keys = block_ids[:, :, None], block_ids[:, None, :]
    causal = torch.ones(chat_ids.shape[1], chat_ids.shape[1], dtype=torch.bool).tril()
    return (is_same_chat & ((keys == 0) | (keys == queries)) & causal)[:, None]
