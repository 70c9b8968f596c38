"""Packed rows are what they would be one question at a time."""

import torch

from components.losses.autoregressive import IGNORE_INDEX
from components.training.packing import Block, pack, shared_prefix_mask

PREFIX = [1, 2, 3]
BLOCKS = [Block([4, 5, 6], 1), Block([7, 8], 2)]


def test_mask_is_causal_within_prefix_and_own_block() -> None:
    block_ids = torch.tensor([[0, 0, 1, 1, 2, -1]])
    mask = shared_prefix_mask(block_ids)[0, 0]
    for query in range(6):
        for key in range(6):
            sees = key <= query and (block_ids[0, key] == 0 or block_ids[0, key] == block_ids[0, query])
            assert mask[query, key] == sees, (query, key)


def test_every_token_attends_to_something() -> None:
    batch = pack([PREFIX, PREFIX], [BLOCKS, BLOCKS[:1]], pad_id=0)
    assert batch.attention_mask.any(dim=-1).all()


def test_labels_are_the_answers_and_positions_go_on_from_the_prefix() -> None:
    batch = pack([PREFIX, PREFIX[:2]], [BLOCKS, BLOCKS[:1]], pad_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 4, 5, 6, 0, 0, 0]]
    ignored = IGNORE_INDEX
    assert batch.labels.tolist() == [
        [ignored, ignored, ignored, ignored, ignored, 6, 7, 8],
        [ignored, ignored, ignored, ignored, 6, ignored, ignored, ignored],
    ]
    assert batch.position_ids[0].tolist() == [0, 1, 2, 3, 4, 5, 3, 4]
    assert batch.position_ids[1, :5].tolist() == [0, 1, 2, 3, 4]
