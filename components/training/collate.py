"""Rows of the sample table -> the tensors of one worker's step."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from components.losses.autoregressive import IGNORE_INDEX
from components.model.backbone import Backbone
from components.model.chat import Turn, encode_conversation, encode_text
from components.params import Params
from components.training.sampler import StepSamples

PADDING_ID = 0  # masked, and not an image placeholder in any supported model


class LengthParams(Params):
    """Where texts are cut."""

    max_caption_tokens: int = Field(ge=1)
    max_conversation_tokens: int = Field(ge=1)  # summary tokens included


class TrainSample(NamedTuple):
    """One row: conversation empty and caption None where the row has none; no picture makes it a text-only row."""

    sample_id: str
    image: Image.Image | None
    conversation: Sequence[Turn]
    caption: str | None


class TrainBatch(NamedTuple):
    """Pictures occur once and are referred to by their row in `pixel_values`; rows are padded on the right."""

    pixel_values: Tensor  # (pictures, 3, height, width); (0,) when all rows are text-only
    conversation_ids: Tensor  # (conversations, tokens)
    conversation_mask: Tensor  # (conversations, tokens)
    labels: Tensor  # (conversations, tokens)
    conversation_pictures: Tensor  # (conversations with a picture,)
    caption_ids: Tensor  # (captions, tokens)
    caption_mask: Tensor  # (captions, tokens)
    caption_pictures: Tensor  # (captions,)

    def to(self, device: torch.device) -> "TrainBatch":
        """The same batch on another device."""
        return TrainBatch(*(tensor.to(device) for tensor in self))


def collate(
    samples: Mapping[int, TrainSample],
    groups: StepSamples,
    backbone: Backbone,
    num_summary_tokens: int,
    lengths: LengthParams,
) -> TrainBatch:
    """The batch of one worker; `groups` name conversations and captions among `samples`, which are given by index.

    Raises ValueError naming the sample whose conversation does not fit the chat template.
    """
    pictures = {index: sample.image for index, sample in samples.items() if sample.image is not None}
    row_of = {index: row for row, index in enumerate(pictures)}
    chats = [encode_chat(samples[i], backbone, num_summary_tokens, lengths) for i in groups.autoregressive]
    captions = [encode_text(backbone.tokenizer, samples[i].caption or "") for i in groups.contrastive]
    conversation_ids, conversation_mask = pad([ids for ids, _ in chats], PADDING_ID)
    caption_ids, caption_mask = pad([ids[: lengths.max_caption_tokens] for ids in captions], PADDING_ID)
    return TrainBatch(
        pixel_values=backbone.pixel_values(list(pictures.values())) if pictures else torch.empty(0),
        conversation_ids=conversation_ids,
        conversation_mask=conversation_mask,
        labels=pad([labels for _, labels in chats], IGNORE_INDEX)[0],
        conversation_pictures=torch.tensor([row_of[i] for i in groups.autoregressive if i in row_of], dtype=torch.long),
        caption_ids=caption_ids,
        caption_mask=caption_mask,
        caption_pictures=torch.tensor([row_of[i] for i in groups.contrastive], dtype=torch.long),
    )


def encode_chat(
    sample: TrainSample, backbone: Backbone, num_summary_tokens: int, lengths: LengthParams
) -> tuple[list[int], list[int]]:
    """Input ids and labels of a conversation in which the picture, if there is one, is `num_summary_tokens` long."""
    num_visual_tokens = 0 if sample.image is None else num_summary_tokens
    try:
        return encode_conversation(
            backbone.tokenizer, sample.conversation, num_visual_tokens, lengths.max_conversation_tokens
        )
    except ValueError as error:
        raise ValueError(f"sample {sample.sample_id}: {error}") from error


def pad(rows: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """Rows of different lengths, filled up on the right: the values and the mask, (rows, longest) each."""
    width = max(map(len, rows), default=0)
    values = [[*row, *([value] * (width - len(row)))] for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    shape = (len(rows), width)
    return torch.tensor(values, dtype=torch.long).reshape(shape), torch.tensor(mask, dtype=torch.long).reshape(shape)
