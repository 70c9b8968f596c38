"""Rows of the sample table -> the tensors of one chunk of a worker's step.

conversations --encode_sample--> Chat --lay_out--> (conversations, tokens)
captions      --encode_texts---------------------> (captions, tokens), phrases and wrong texts too
pictures      --prepare, each once---------------> pixels of the vision tower
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, Protocol

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
NO_TEXT = 0  # key of a text that is missing
NUM_KEYS_KEPT = 65_536  # texts whose keys are remembered: a small world repeats them
REMEMBERED_CHARACTERS = 256  # of a conversation, at most; longer ones hardly come again
REMEMBERED_CONVERSATIONS = 2**14  # the last ones, with their tokens: up to about 80 MB


class TextParams(Params):
    """Settings of the texts that are read."""

    # further texts of a picture that are read beside its caption in each step, where it has any
    phrases_per_caption: int = Field(ge=0)
    # groups of words that stand in for one another; none: no negatives
    hard_negatives: tuple[tuple[str, ...], ...]
    # each question of a conversation after all before it, or on its own
    turns: Literal["together", "apart"]
    max_caption_tokens: int = Field(ge=1)
    max_conversation_tokens: int = Field(ge=1)  # summary tokens included
    # rows are filled with conversations up to this; null: one a row
    max_row_tokens: Annotated[int, Field(ge=1)] | None

    @property
    def negatives_per_pair(self) -> int:
        """The number of wrong texts of a pair: one for each phrase, else one for the caption."""
        return max(self.phrases_per_caption, 1) if self.hard_negatives else 0


class Reader(Protocol):
    """A reader of the texts and pictures of a batch: a method, or a base model."""

    @property
    def tokenizer(self) -> Any: ...

    @property
    def chat(self) -> ChatFormat: ...

    @property
    def image_token_id(self) -> int: ...

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures: ...


class TrainSample(NamedTuple):
    """One row of the sample table; conversation empty and caption None where the row has none."""

    sample_id: str
    # or its vision features (image tokens, vision dim); None: a text-only row
    image: Image.Image | Tensor | None
    conversation: Sequence[Turn]
    caption: str | None
    image_sha256: str | None = None  # of the pixels
    known_phrases: Sequence[str] = ()  # further texts that are true of the picture
    phrases: Sequence[str] = ()  # those of them that are read in this step
    # texts that are wrong by a word or two; None: nothing could be changed
    hard_negatives: Sequence[str | None] = ()
    is_learned: bool = True  # whether the answers have labels
    premise: str | None = None  # of a pair of texts: stands where the picture does otherwise


Split = Callable[[TrainSample], list[TrainSample]]


class Texts(NamedTuple):
    """Texts of the contrastive loss, so many per pair, pair by pair; one without tokens is none."""

    ids: Tensor  # (texts, tokens)
    mask: Tensor  # the same shape
    keys: Tensor  # (texts,) int64: equal texts have equal keys, a missing one NO_TEXT

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device) -> "Texts":
        """Return the same texts on another device."""
        return Texts(self.ids.to(device), self.mask.to(device), self.keys.to(device))


class TrainBatch(NamedTuple):
    """The tensors of a chunk; rows of ids are padded on the right.

    A picture occurs once, and texts refer to it by its row: prepared ones first, then those whose
    vision features were stored.
    """

    pictures: PreparedPictures  # still to be read by the vision side
    vision_features: Tensor  # (stored pictures, image tokens, vision dim), or (0,)

    conversation_ids: Tensor  # (conversations, tokens)
    # (conversations, tokens), or (conversations, 1, tokens, tokens) for packed rows
    conversation_mask: Tensor
    conversation_positions: Tensor  # (conversations, tokens)
    # (conversations, answer tokens): places in the row whose next token is to be learned
    predicting: Tensor
    # (conversations, answer tokens): these tokens, IGNORE_INDEX in rows that have fewer
    targets: Tensor
    conversation_pictures: Tensor  # (conversations with a picture,): rows of pictures
    conversation_budgets: Tensor  # (conversations with a picture,): summary tokens that are read

    captions: Texts  # one per pair
    phrases: Texts  # as many for each pair, of those that have some
    hard_negatives: Texts  # as many for each pair
    premises: Texts  # in place of the pictures; none if there are pictures
    caption_pictures: Tensor  # (pairs,): rows of pictures; (0,) for pairs of texts
    known_keys: Tensor  # (pairs, most): keys of all texts that are true of the picture, or NO_TEXT
    picture_keys: Tensor  # (pairs,): equal pictures have equal keys, a missing one NO_TEXT
    budgets: tuple[int, ...]  # prefixes of the summary tokens that pairs are told apart by

    @property
    def num_pictures(self) -> int:
        return len(self.pictures) + len(self.vision_features)

    @property
    def num_pairs(self) -> int:
        return len(self.captions)

    def to(self, device: torch.device) -> "TrainBatch":
        """Return the same batch on another device."""
        parts = self._asdict()
        for name in parts.keys() - {"budgets"}:
            parts[name] = parts[name].to(device)
        return TrainBatch(**parts)


def as_one_row(sample: TrainSample) -> list[TrainSample]:
    """Leave the sample as it is."""
    return [sample]


def questions_alone(sample: TrainSample) -> list[TrainSample]:
    """Repeat the sample once for each of its questions."""
    return [sample._replace(conversation=turns) for turns in single_questions(sample)]


# by `Method.reads_questions`
SPLITS: dict[bool, Split] = {False: as_one_row, True: questions_alone}


def collate(
    samples: Mapping[int, TrainSample],
    groups: StepSamples,
    reader: Reader,
    budgets: Budgets,
    texts: TextParams,
    split: Split = as_one_row,
) -> TrainBatch:
    """Make the tensors of a chunk, on the CPU; `groups` are indices into `samples`.

    `split` makes several samples of one: with `questions_alone` each question is a row of its own,
    with its picture. Raises ValueError naming the sample that does not fit the chat template.
    """
    # asked once, since each of them is looked up through several parts of the model
    tokenizer, chat, image_token_id = reader.tokenizer, reader.chat, reader.image_token_id

    # a picture that has a conversation and a caption is compressed once, for both losses
    pictures: dict[int, Image.Image] = {}
    features: dict[int, Tensor] = {}
    for index, sample in samples.items():
        if isinstance(sample.image, Image.Image):
            pictures[index] = sample.image
        elif isinstance(sample.image, Tensor):
            features[index] = sample.image
    row_of = {index: row for row, index in enumerate([*pictures, *features])}

    # autoregressive group: each conversation reads its own number of summary tokens
    chats: list[Chat] = []
    read_by: list[tuple[int, int]] = []  # sample and number of summary tokens of each chat
    for index in groups.autoregressive:
        num_read = budgets.of_conversation(index)
        for sample in split(samples[index]):
            chats.append(encode_sample(sample, chat, image_token_id, num_read, texts))
            read_by.append((index, num_read))
    rows = lay_out(chats, texts)
    predicting, targets = answer_positions(rows.labels)

    # packing may have moved the chats: pictures follow them into the order of the rows
    conversation_pictures: list[int] = []
    conversation_budgets: list[int] = []
    for number in rows.order:
        index, num_read = read_by[number]
        if index in row_of:
            conversation_pictures.append(row_of[index])
            conversation_budgets.append(num_read)

    # contrastive group: a picture, or a text in its place, and the texts that go with it
    captions: list[str | None] = []
    phrases: list[str | None] = []
    hard_negatives: list[str | None] = []
    premises: list[str | None] = []
    caption_pictures: list[int] = []
    known_keys: list[list[int]] = []
    picture_keys: list[int] = []
    for index in groups.contrastive:
        sample = samples[index]
        captions.append(sample.caption)
        phrases += filled(sample.phrases, texts.phrases_per_caption)
        hard_negatives += filled(sample.hard_negatives, texts.negatives_per_pair)
        known_keys.append([key_of(text) for text in (sample.caption, *sample.known_phrases)])
        picture_keys.append(key_of(sample.image_sha256))
        if sample.premise is not None:
            premises.append(sample.premise)
        if index in row_of:
            caption_pictures.append(row_of[index])

    return TrainBatch(
        pictures=reader.prepare(list(pictures.values())) if pictures else NO_PICTURES,
        vision_features=torch.stack(list(features.values())) if features else torch.empty(0),
        conversation_ids=rows.input_ids,
        conversation_mask=rows.attention_mask,
        conversation_positions=rows.position_ids,
        predicting=predicting,
        targets=targets,
        conversation_pictures=_integers(conversation_pictures),
        conversation_budgets=_integers(conversation_budgets),
        captions=encode_texts(tokenizer, captions, texts.max_caption_tokens),
        phrases=encode_texts(tokenizer, phrases, texts.max_caption_tokens),
        hard_negatives=encode_texts(tokenizer, hard_negatives, texts.max_caption_tokens),
        premises=encode_texts(tokenizer, premises, texts.max_caption_tokens),
        caption_pictures=_integers(caption_pictures),
        known_keys=pad(known_keys, NO_TEXT)[0],
        picture_keys=_integers(picture_keys),
        budgets=budgets.sizes,
    )


def encode_sample(
    sample: TrainSample,
    chat: ChatFormat,
    image_token_id: int,
    num_summary_tokens: int,
    texts: TextParams,
) -> Chat:
    """Encode a conversation, cut at the maximum length.

    Turns together are one block, in which each question sees the turns before it. Turns apart are
    a block each and do not see each other; those beyond the maximum are left out.
    """
    max_tokens = texts.max_conversation_tokens
    if texts.turns == "together":
        ids, labels = encode_chat(sample, sample.conversation, chat, num_summary_tokens)
        return Chat([], [Block(ids[:max_tokens], labels[:max_tokens])])

    # all questions begin alike, up to the last image token or, without a picture, with BOS
    questions = [
        encode_chat(sample, turns, chat, num_summary_tokens) for turns in single_questions(sample)
    ]
    prefix: list[int] = []
    if questions:
        ids, num_shared = questions[0][0], 1
        for place, token in enumerate(ids):
            if token == image_token_id:
                num_shared = place + 1
        prefix = ids[:num_shared]

    # the prefix counts once, whatever the number of questions
    blocks: list[Block] = []
    num_tokens = start = len(prefix)
    for ids, labels in questions:
        num_tokens += len(ids) - start
        if num_tokens <= max_tokens:
            blocks.append(Block(ids[start:], labels[start:]))
    return Chat(prefix, blocks)


def lay_out(chats: Sequence[Chat], texts: TextParams) -> PackedBatch:
    """Put chats into padded rows: packed, or one a row under an ordinary causal mask."""
    if texts.turns == "apart" or texts.max_row_tokens is not None:
        return pack(chats, PADDING_ID, texts.max_row_tokens)

    blocks: list[Block] = []
    for chat in chats:
        blocks += chat.blocks
    input_ids, mask = pad([block.input_ids for block in blocks], PADDING_ID)
    labels, _ = pad([block.labels for block in blocks], IGNORE_INDEX)
    return PackedBatch(input_ids, labels, position_ids(mask), mask, range(len(blocks)))


def single_questions(sample: TrainSample) -> Iterator[list[Turn]]:
    """Yield each question with its answer as a conversation of its own, about the same picture."""
    turns = sample.conversation
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        text = question["content"].replace(IMAGE_PLACEHOLDER, "").strip()
        placeholder = "" if sample.image is None else f"{IMAGE_PLACEHOLDER}\n"
        yield [{"role": question["role"], "content": placeholder + text}, answer]


def encode_chat(
    sample: TrainSample, turns: Sequence[Turn], chat: ChatFormat, num_summary_tokens: int
) -> tuple[list[int], list[int]]:
    """Encode turns about the picture of a sample, if it has one, as input ids and labels.

    Raises ValueError naming the sample when the turns do not fit the chat template.
    """
    num_visual_tokens = 0 if sample.image is None else num_summary_tokens
    is_short = sum(len(turn["content"]) for turn in turns) <= REMEMBERED_CHARACTERS
    try:
        if is_short:
            texts = tuple((turn["role"], turn["content"]) for turn in turns)
            input_ids, labels = map(list, encode_short(chat, texts, num_visual_tokens))
        else:
            input_ids, labels = encode_conversation(chat, turns, num_visual_tokens)
    except ValueError as error:
        raise ValueError(f"sample {sample.sample_id}: {error}") from error
    return input_ids, labels if sample.is_learned else [IGNORE_INDEX] * len(labels)


@lru_cache(REMEMBERED_CONVERSATIONS)
def encode_short(
    chat: ChatFormat, texts: tuple[tuple[str, str], ...], num_visual_tokens: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Encode turns, (role, content) each, or remember how they were encoded: ids and labels."""
    turns = [{"role": role, "content": content} for role, content in texts]
    input_ids, labels = encode_conversation(chat, turns, num_visual_tokens)
    return tuple(input_ids), tuple(labels)


def encode_texts(tokenizer: Any, texts: Sequence[str | None], max_tokens: int) -> Texts:
    """Encode texts without special tokens, cut at `max_tokens`; None is a text without tokens."""
    rows = [encode_text(tokenizer, text or "")[:max_tokens] for text in texts]
    ids, mask = pad(rows, PADDING_ID)
    return Texts(ids, mask, _integers([key_of(text) for text in texts]))


@lru_cache(NUM_KEYS_KEPT)
def key_of(text: str | None) -> int:
    """Return 63 bits of a hash of a text, the same on every worker; NO_TEXT for none."""
    if text is None:
        return NO_TEXT
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def filled(texts: Sequence[str | None], count: int) -> list[str | None]:
    """Fill up texts with None to so many."""
    return [*texts, *[None] * (count - len(texts))]


def answer_positions(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Find the places whose next token is a label, and that label: (batch, most of any row) each.

    `labels`: (batch, tokens). Rows with fewer are filled up with other places and IGNORE_INDEX;
    there is at least one place.
    """
    next_labels = labels[:, 1:]
    is_label = next_labels != IGNORE_INDEX
    most = max([1, *is_label.sum(1).tolist()])
    # a stable sort puts the places of labels first and keeps their order
    places = is_label.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return places, next_labels.gather(1, places)


def pad(rows: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """Fill rows up on the right: values and mask, (rows, longest) int64 each."""
    lengths = list(map(len, rows))
    values = torch.full((len(rows), max(lengths, default=0)), value)
    for number, row in enumerate(rows):
        values[number, : len(row)] = _integers(row)
    mask = torch.arange(values.shape[1]) < _integers(lengths)[:, None]
    return values, mask.long()


def _integers(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)
