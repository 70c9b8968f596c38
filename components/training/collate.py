"""Rows of the sample table -> the tensors of one worker's step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from components.losses.autoregressive import IGNORE_INDEX
from components.model.chat import (
    IMAGE_PLACEHOLDER,
    ChatFormat,
    Turn,
    encode_conversation,
    encode_text,
)
from components.model.prepared import NO_PICTURES, PreparedPictures
from components.model.segments import position_ids
from components.params import Params
from components.training.budgets import Budgets
from components.training.packing import Block, Chat, PackedBatch, pack
from components.training.sampler import StepSamples

PADDING_ID = 0  # masked, and not an image placeholder in any supported model


class TextParams(Params):
    """What is read of a text, and how."""

    # groups of words that stand in for one another; none: no negatives
    hard_negatives: tuple[tuple[str, ...], ...]
    # each question of a conversation after all before it, or on its own
    turns: Literal["together", "apart"]
    max_caption_tokens: int = Field(ge=1)
    max_conversation_tokens: int = Field(ge=1)  # summary tokens included
    # rows are filled with conversations up to this; null: one a row
    max_row_tokens: Annotated[int, Field(ge=1)] | None


class Reader(Protocol):
    """Who reads the texts and pictures of a batch: a method, or a base model."""

    @property
    def tokenizer(self) -> Any: ...

    @property
    def chat(self) -> ChatFormat: ...

    @property
    def image_token_id(self) -> int: ...

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures: ...


class TrainSample(NamedTuple):
    """One row: conversation empty and caption None where the row has none; no picture makes it a text-only row."""

    sample_id: str
    image: Image.Image | Tensor | None  # or its vision features (image tokens, vision dim)
    conversation: Sequence[Turn]
    caption: str | None
    hard_negative: str | None = None  # a caption that is wrong by a word or two
    is_learned: bool = True  # whether the answers have labels
    premise: str | None = None  # of a pair of texts: what stands where the picture does otherwise


Split = Callable[[TrainSample], list[TrainSample]]


class TrainBatch(NamedTuple):
    """Pictures occur once and are referred to by their row, prepared ones first; rows are padded on the right."""

    pictures: PreparedPictures  # those that the vision side has to read
    # (pictures, image tokens, vision dim) of those that were encoded before; (0,) the same
    vision_features: Tensor
    conversation_ids: Tensor  # (conversations, tokens)
    # (conversations, tokens), or (conversations, 1, tokens, tokens) for turns apart
    conversation_mask: Tensor
    conversation_positions: Tensor  # (conversations, tokens)
    # (conversations, answer tokens): places in the row whose next token is to be learned
    predicting: Tensor
    # (conversations, answer tokens): these tokens, IGNORE_INDEX in rows that have fewer
    targets: Tensor
    conversation_pictures: Tensor  # (conversations with a picture,)
    # (conversations with a picture,): how many summary tokens each of them reads
    conversation_budgets: Tensor
    # (captions, tokens); with hard negatives one more row for each, behind all captions
    caption_ids: Tensor
    caption_mask: Tensor  # the same; all zeros for a caption without a hard negative
    caption_pictures: Tensor  # (captions,); (0,) for pairs of texts
    # (captions, tokens): texts in place of the pictures; (0, 0) if there are pictures
    premise_ids: Tensor
    premise_mask: Tensor  # the same
    budgets: tuple[int, ...]  # prefixes of the summary tokens that pairs are told apart by

    @property
    def num_pictures(self) -> int:
        return len(self.pictures) + len(self.vision_features)

    @property
    def num_pairs(self) -> int:
        return len(self.caption_pictures) + len(self.premise_ids)

    def to(self, device: torch.device) -> "TrainBatch":
        """The same batch on another device."""
        moved = {
            name: part.to(device) for name, part in self._asdict().items() if name != "budgets"
        }
        return self._replace(**moved)


def whole(sample: TrainSample) -> list[TrainSample]:
    """The sample as it is."""
    return [sample]


def questions_alone(sample: TrainSample) -> list[TrainSample]:
    """The sample once for each of its questions."""
    return [sample._replace(conversation=turns) for turns in single_questions(sample)]


# by whether the method reads questions
SPLITS: dict[bool, Split] = {False: whole, True: questions_alone}


def collate(
    samples: Mapping[int, TrainSample],
    groups: StepSamples,
    reader: Reader,
    budgets: Budgets,
    texts: TextParams,
    split: Split = whole,
) -> TrainBatch:
    """The batch of one worker; `groups` name conversations and captions among `samples`, which are given by index.

    `split` makes several samples of one: with `questions_alone` each question is a row of its own,
    with its picture.

    Raises ValueError naming the sample whose conversation does not fit the chat template.
    """
    pictures = {
        index: sample.image
        for index, sample in samples.items()
        if isinstance(sample.image, Image.Image)
    }
    encoded = {
        index: sample.image for index, sample in samples.items() if isinstance(sample.image, Tensor)
    }
    row_of = {index: row for row, index in enumerate([*pictures, *encoded])}
    read = {i: budgets.of_conversation(i) for i in groups.autoregressive}
    asked = [(i, sample) for i in groups.autoregressive for sample in split(samples[i])]
    chats = encode_chats([(sample, read[i]) for i, sample in asked], reader, texts)
    chat_order = [asked[place][0] for place in chats.order]
    texts_read = [samples[i].caption for i in groups.contrastive]
    if texts.hard_negatives:
        texts_read += [samples[i].hard_negative for i in groups.contrastive]
    captions = [encode_text(reader.tokenizer, text or "") for text in texts_read]
    caption_ids, caption_mask = pad(
        [ids[: texts.max_caption_tokens] for ids in captions], PADDING_ID
    )
    given = [samples[i].premise for i in groups.contrastive]
    premises = [encode_text(reader.tokenizer, text) for text in given if text is not None]
    premise_ids, premise_mask = pad(
        [ids[: texts.max_caption_tokens] for ids in premises], PADDING_ID
    )
    predicting, targets = answer_positions(chats.labels)
    return TrainBatch(
        pictures=reader.prepare(list(pictures.values())) if pictures else NO_PICTURES,
        vision_features=torch.stack(list(encoded.values())) if encoded else torch.empty(0),
        conversation_ids=chats.input_ids,
        conversation_mask=chats.attention_mask,
        conversation_positions=chats.position_ids,
        predicting=predicting,
        targets=targets,
        conversation_pictures=torch.tensor(
            [row_of[i] for i in chat_order if i in row_of], dtype=torch.long
        ),
        conversation_budgets=torch.tensor(
            [read[i] for i in chat_order if i in row_of], dtype=torch.long
        ),
        caption_ids=caption_ids,
        caption_mask=caption_mask,
        caption_pictures=torch.tensor(
            [row_of[i] for i in groups.contrastive if i in row_of], dtype=torch.long
        ),
        premise_ids=premise_ids,
        premise_mask=premise_mask,
        budgets=budgets.sizes,
    )


def encode_chats(
    samples: Sequence[tuple[TrainSample, int]], reader: Reader, texts: TextParams
) -> PackedBatch:
    """Conversations, each with its number of summary tokens, as padded rows: one a row and causal, or packed."""
    encode = {"together": whole_chat, "apart": questions_apart}[texts.turns]
    chats = [
        encode(sample, reader, budget, texts.max_conversation_tokens) for sample, budget in samples
    ]
    if texts.turns == "apart" or texts.max_row_tokens is not None:
        return pack(chats, PADDING_ID, texts.max_row_tokens)
    blocks = [block for chat in chats for block in chat.blocks]
    input_ids, mask = pad([block.input_ids for block in blocks], PADDING_ID)
    labels, _ = pad([block.labels for block in blocks], IGNORE_INDEX)
    return PackedBatch(input_ids, labels, position_ids(mask), mask, range(len(blocks)))


def whole_chat(
    sample: TrainSample, reader: Reader, num_summary_tokens: int, max_tokens: int
) -> Chat:
    """An ordinary chat, in which each question sees what was said before it; cut at the maximum length."""
    ids, labels = encode_chat(sample, sample.conversation, reader, num_summary_tokens)
    return Chat([], [Block(ids[:max_tokens], labels[:max_tokens])])


def questions_apart(
    sample: TrainSample, reader: Reader, num_summary_tokens: int, max_tokens: int
) -> Chat:
    """Questions that do not see each other; those that do not fit into the maximum length are left out."""
    chats = [
        encode_chat(sample, turns, reader, num_summary_tokens) for turns in single_questions(sample)
    ]
    first = chats[0][0] if chats else []
    start = 1 + max(
        (at for at, token in enumerate(first) if token == reader.image_token_id), default=0
    )
    lengths = np.cumsum([len(ids) - start for ids, _ in chats])
    kept = [
        chat for chat, length in zip(chats, lengths, strict=True) if length + start <= max_tokens
    ]
    return Chat(first[:start], [Block(ids[start:], labels[start:]) for ids, labels in kept])


def single_questions(sample: TrainSample) -> Iterator[list[Turn]]:
    """Each question with its answer as a conversation of its own, about the same picture."""
    turns = sample.conversation
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        text = question["content"].replace(IMAGE_PLACEHOLDER, "").strip()
        placeholder = "" if sample.image is None else f"{IMAGE_PLACEHOLDER}\n"
        yield [{"role": question["role"], "content": placeholder + text}, answer]


def encode_chat(
    sample: TrainSample, turns: Sequence[Turn], reader: Reader, num_summary_tokens: int
) -> tuple[list[int], list[int]]:
    """Input ids and labels of a chat in which the picture, if there is one, is `num_summary_tokens` long."""
    num_visual_tokens = 0 if sample.image is None else num_summary_tokens
    try:
        input_ids, labels = encode_conversation(reader.chat, turns, num_visual_tokens)
    except ValueError as error:
        raise ValueError(f"sample {sample.sample_id}: {error}") from error
    return input_ids, labels if sample.is_learned else [IGNORE_INDEX] * len(labels)


def answer_positions(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Where the next token is a label, and that label: (batch, most of any row) each, from labels (batch, tokens).

    Rows with fewer are filled up with other places and IGNORE_INDEX; there is at least one place.
    """
    next_labels = labels[:, 1:]
    is_label = next_labels != IGNORE_INDEX
    most = max([1, *is_label.sum(1).tolist()])
    places = is_label.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return places, next_labels.gather(1, places)


def pad(rows: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """Rows of different lengths, filled up on the right: the values and the mask, (rows, longest) each."""
    width = max(map(len, rows), default=0)
    values = [[*row, *([value] * (width - len(row)))] for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    shape = (len(rows), width)
    return torch.tensor(values, dtype=torch.long).reshape(shape), torch.tensor(
        mask, dtype=torch.long
    ).reshape(shape)
