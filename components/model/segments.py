"""Segments: stretches of the language model's input, and how they are put together.

A picture is not always a run of ordinary tokens: pictures of a batch may have different numbers of
them, may count their positions along rows and columns, and may see each other both ways. A segment
carries all of that along.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Segment(NamedTuple):
    """A stretch of tokens of every row; padding, on either side, is masked and has no position."""

    embeddings: Tensor  # (rows, tokens, dim)
    mask: Tensor  # (rows, tokens), 1 where there is a token
    # (axes, rows, tokens), from 0; three axes where pictures have rows and columns, else one
    positions: Tensor
    # (rows, tokens), bool: tokens of a picture, which some models let see each other both ways
    is_picture: Tensor

    @property
    def num_rows(self) -> int:
        """Rows, whether they have tokens or not."""
        return len(self.embeddings)

    def to(self, device: torch.device) -> "Segment":
        """Move the segment to a device."""
        return Segment(*(part.to(device) for part in self))

    def rows(self, rows: Sequence[int] | Tensor) -> "Segment":
        """Pick rows, in any order and any number of times."""
        return Segment(
            self.embeddings[rows], self.mask[rows], self.positions[:, rows], self.is_picture[rows]
        )

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, without padding."""
        return self.mask.sum(1).tolist()

    @property
    def position_ids(self) -> Tensor:
        """Positions in the shape that transformers takes: (rows, tokens), or (3, rows, tokens)."""
        return self.positions[0] if len(self.positions) == 1 else self.positions


def text_segment(embeddings: Tensor, mask: Tensor | None = None) -> Segment:
    """Make a segment of ordinary tokens (rows, tokens, dim), numbered one after the other.

    `mask`: (rows, tokens), 1 where there is a token; None: everywhere.
    """
    if mask is None:
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
    return Segment(
        embeddings, mask, position_ids(mask)[None], torch.zeros_like(mask, dtype=torch.bool)
    )


def picture_segment(
    pictures: Sequence[Tensor], positions: Sequence[Tensor] | None = None
) -> Segment:
    """Make a segment of pictures, (tokens, dim) each, padded on the right.

    `positions`: (axes, tokens) of each; None: one after the other.
    """
    embeddings = torch.nn.utils.rnn.pad_sequence(list(pictures), batch_first=True)
    lengths = torch.tensor([len(picture) for picture in pictures], device=embeddings.device)
    mask = (torch.arange(embeddings.shape[1], device=embeddings.device) < lengths[:, None]).long()
    segment = text_segment(embeddings, mask)

    # The family's own positions, where it has any, take the place of counted ones.
    if positions is not None:
        by_token = [places.T for places in positions]  # pad_sequence pads the first axis
        padded = torch.nn.utils.rnn.pad_sequence(by_token, batch_first=True)
        segment = segment._replace(positions=padded.permute(2, 0, 1))
    return segment._replace(is_picture=mask.bool())


def position_ids(mask: Tensor) -> Tensor:
    """Number the tokens that are there from 0: mask (rows, tokens) -> positions (rows, tokens)."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def join(segments: Sequence[Segment]) -> Segment:
    """Join segments; each starts at the position after the highest one before it."""
    num_axes = max(len(segment.positions) for segment in segments)
    start = segments[0].mask.new_zeros(segments[0].num_rows)

    # Text has one axis; next to pictures it counts alike along all of theirs.
    positions = []
    for segment in segments:
        positions.append((segment.positions + start[:, None]).expand(num_axes, -1, -1))
        start = start + extent(segment)

    embeddings, masks, _, is_picture = zip(*segments, strict=True)
    return Segment(
        torch.cat(embeddings, dim=1),
        torch.cat(masks, dim=1),
        torch.cat(positions, dim=2),
        torch.cat(is_picture, dim=1),
    )


def insert(chat: Segment, is_placeholder: Tensor, pictures: Segment) -> Segment:
    """Put a picture into each chat, in place of its placeholders (rows, tokens), bool.

    The placeholders of a row stand together, and there are as many as the picture has tokens.
    """
    # Position of the first placeholder, and number of each placeholder in its row.
    first = torch.where(is_placeholder, chat.positions[0], chat.positions.max()).amin(1)
    number = (is_placeholder.cumsum(1) - 1).clamp(min=0)

    # A picture may take fewer positions than tokens: what comes behind it moves forward.
    inside = pictures.positions.take_along_dim(number[None], dim=2) + first[:, None]
    behind = chat.positions + (extent(pictures) - pictures.mask.sum(1))[:, None]
    is_behind = ~is_placeholder & (is_placeholder.cumsum(1) > 0)
    positions = torch.where(is_placeholder, inside, torch.where(is_behind, behind, chat.positions))

    embeddings = pictures.embeddings.take_along_dim(number[..., None], dim=1)
    embeddings = embeddings.to(chat.embeddings.dtype)
    return Segment(
        torch.where(is_placeholder[..., None], embeddings, chat.embeddings),
        chat.mask,
        positions,
        is_placeholder & pictures.is_picture.take_along_dim(number, dim=1),
    )


def extent(segment: Segment) -> Tensor:
    """Return the number of positions of each row, (rows,); a picture may have more tokens."""
    if not segment.mask.shape[1]:
        return segment.mask.new_zeros(segment.num_rows)
    return segment.positions.amax(0).masked_fill(segment.mask == 0, -1).amax(1) + 1


def stack(segments: Sequence[Segment]) -> Segment:
    """Stack the rows of segments, padded on the right to the longest."""
    if len(segments) == 1:
        return segments[0]

    width = max(segment.mask.shape[1] for segment in segments)
    wide = [widen(segment, width) for segment in segments]
    embeddings, masks, positions, is_picture = zip(*wide, strict=True)
    return Segment(
        torch.cat(embeddings), torch.cat(masks), torch.cat(positions, dim=1), torch.cat(is_picture)
    )


def widen(segment: Segment, width: int) -> Segment:
    """Pad on the right, up to `width` tokens."""
    more = width - segment.mask.shape[1]
    embeddings = torch.nn.functional.pad(segment.embeddings, (0, 0, 0, more))
    others = [torch.nn.functional.pad(part, (0, more)) for part in segment[1:]]
    return Segment(embeddings, *others)
