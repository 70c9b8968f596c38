import torch
from hypothesis import given
from hypothesis import strategies as st

from components.model.segments import (
    Segment,
    extent,
    insert,
    join,
    picture_segment,
    stack,
    text_segment,
)

GENERATOR = torch.Generator().manual_seed(0)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR)


def grid(rows: int, columns: int) -> torch.Tensor:
    """Frame, row and column of each token of a picture."""
    return torch.tensor([(0, row, column) for row in range(rows) for column in range(columns)]).T


def positions_of(segment: Segment, row: int) -> list[list[int]]:
    """Of the tokens that are there, along each axis."""
    return segment.positions[:, row, segment.mask[row].bool()].tolist()


def test_tokens_follow_one_another_whatever_the_padding() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]])
    segment = text_segment(noise(3, 4, 2), mask)
    assert [positions_of(segment, row) for row in range(3)] == [[[0, 1]], [[0, 1]], [[0, 1, 2, 3]]]
    assert segment.lengths == [2, 2, 4]
    assert not segment.is_picture.any()


def test_pictures_of_a_batch_keep_their_lengths() -> None:
    pictures = [noise(length, 2) for length in (3, 5)]
    segment = picture_segment(pictures)
    assert segment.lengths == [3, 5]
    assert torch.equal(segment.embeddings[0, :3], pictures[0])
    assert segment.is_picture.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert torch.equal(segment.rows([1, 1, 0]).embeddings[1], pictures[1])


def test_what_follows_a_picture_starts_after_its_highest_row_or_column() -> None:
    """By hand, for pictures of 2 × 3 and 1 × 2 tokens between two words and three."""
    pictures = picture_segment([noise(6, 2), noise(2, 2)], [grid(2, 3), grid(1, 2)])
    joined = join([text_segment(noise(2, 2, 2)), pictures, text_segment(noise(2, 3, 2))])
    assert positions_of(joined, 0) == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 7],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7],
    ]
    assert positions_of(joined, 1) == [
        [0, 1, 2, 2, 4, 5, 6],
        [0, 1, 2, 2, 4, 5, 6],
        [0, 1, 2, 3, 4, 5, 6],
    ]
    assert joined.position_ids.shape == (3, 2, 11)


def test_empty_segments_take_no_position() -> None:
    nothing = text_segment(noise(2, 0, 2))
    assert extent(nothing).tolist() == [0, 0]
    joined = join([nothing, text_segment(noise(2, 2, 2)), nothing])
    assert joined.position_ids.tolist() == [[0, 1], [0, 1]]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 3)),
        min_size=1,
        max_size=4,
    )
)
def test_a_picture_put_into_a_chat_reads_as_one_that_is_joined(
    rows: list[tuple[int, int, int, int]],
) -> None:
    """Rows: words before, rows and columns of the picture, words behind; padded on the left."""
    pictures = picture_segment(
        [noise(r * c, 2) for _, r, c, _ in rows], [grid(r, c) for _, r, c, _ in rows]
    )
    width = max(before + r * c + behind for before, r, c, behind in rows)
    mask, is_placeholder = (
        torch.zeros(len(rows), width, dtype=torch.long),
        torch.zeros(len(rows), width, dtype=torch.bool),
    )
    for row, (before, r, c, behind) in enumerate(rows):
        mask[row, width - before - r * c - behind :] = 1
        is_placeholder[row, width - r * c - behind : width - behind] = True
    embeddings = noise(len(rows), width, 2)
    chats = insert(text_segment(embeddings, mask), is_placeholder, pictures)
    for row, (before, r, c, _) in enumerate(rows):
        there = mask[row].bool()
        words = embeddings[row][there][None]
        picture = picture_segment([pictures.embeddings[row, : r * c]], [grid(r, c)])
        alone = join(
            [text_segment(words[:, :before]), picture, text_segment(words[:, before + r * c :])]
        )
        assert torch.equal(chats.embeddings[row][there], alone.embeddings[0])
        assert positions_of(chats, row) == positions_of(alone, 0)
        assert torch.equal(chats.is_picture[row][there], alone.is_picture[0])


def test_stacked_rows_are_padded_on_the_right() -> None:
    parts = [text_segment(noise(1, length, 2)) for length in (2, 4)]
    stacked = stack(parts)
    assert stacked.lengths == [2, 4]
    assert torch.equal(stacked.embeddings[1], parts[1].embeddings[0])
    assert stack(parts[:1]) is parts[0]
