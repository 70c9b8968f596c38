"""Packed rows are what they would be one question at a time."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from components.losses.autoregressive import IGNORE_INDEX
from components.training.packing import PADDING, Block, Chat, chat_mask, fill_rows, pack

PREFIX = [1, 2, 3]
NO = IGNORE_INDEX
BLOCKS = [Block([4, 5, 6], [NO, NO, 6]), Block([7, 8], [7, 8])]
CHATS = [Chat(PREFIX, BLOCKS), Chat(PREFIX[:2], BLOCKS[:1])]


def test_mask_is_causal_within_prefix_and_own_block_of_the_same_chat() -> None:
    chat_ids = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, PADDING]])
    block_ids = torch.tensor([[0, 0, 1, 1, 2, 0, 1, 2, 0]])
    mask = chat_mask(chat_ids, block_ids)[0, 0]
    for query in range(9):
        for key in range(9):
            is_same = chat_ids[0, key] == chat_ids[0, query]
            is_shared = block_ids[0, key] == 0 or block_ids[0, key] == block_ids[0, query]
            assert mask[query, key] == (key <= query and is_same and is_shared), (query, key)


def test_every_token_attends_to_something() -> None:
    for row_tokens in (None, 20):
        assert pack(CHATS, 0, row_tokens).attention_mask.any(dim=-1).all()


def test_labels_are_the_answers_and_positions_go_on_from_the_prefix() -> None:
    batch = pack(CHATS, 0, None)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 4, 5, 6, 0, 0, 0]]
    assert batch.labels.tolist() == [[NO, NO, NO, NO, NO, 6, 7, 8], [NO, NO, NO, NO, 6, NO, NO, NO]]
    assert batch.position_ids[0].tolist() == [0, 1, 2, 3, 4, 5, 3, 4]
    assert batch.position_ids[1, :5].tolist() == [0, 1, 2, 3, 4]
    assert list(batch.order) == [0, 1]


def test_chats_share_a_row_that_has_room() -> None:
    batch = pack([CHATS[1], CHATS[0]], 0, 13)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 4, 5, 6]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 3, 4, 0, 1, 2, 3, 4]]
    assert list(batch.order) == [1, 0]


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 60))
def test_rows_hold_every_chat_once_and_overflow_only_alone(
    lengths: list[int], row_tokens: int
) -> None:
    rows = fill_rows(lengths, row_tokens)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    for row in rows:
        assert (
            sum(lengths[index] for index in row) <= row_tokens
            or len([i for i in row if lengths[i]]) == 1
        )


def test_nothing_to_pack_is_an_empty_batch() -> None:
    assert [len(part) for part in pack([], 0, None)] == [0] * 5
