"""Pretraining of a small base LVLM from scratch: every weight learns to answer questions about pictures.

One row is a picture with its question–answer pairs, packed so that no pair sees another
(packing.py).
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase, ProcessorMixin

from components.losses.autoregressive import IGNORE_INDEX
from components.model.chat import IMAGE_PLACEHOLDER, ChatFormat, encode_conversation
from components.training.packing import Block, Chat, PackedBatch, pack

QuestionAnswer = tuple[str, str]


class PretrainBatch(NamedTuple):
    """Packed questions about the pictures of the rows that show theirs."""

    pixel_values: Tensor  # (shown pictures, 3, height, width) float32
    packed: PackedBatch  # (batch, tokens)


class Encoder:
    """Question–answer pairs as packed blocks; remembers encodings, as a small world asks the same again and again."""

    def __init__(self, processor: ProcessorMixin, num_image_tokens: int) -> None:
        self.tokenizer: PreTrainedTokenizerBase = processor.tokenizer
        self.tokenizer.chat_template = processor.chat_template
        self.num_image_tokens = num_image_tokens
        self.blocks: dict[QuestionAnswer, Block] = {}
        mean, std = processor.image_processor.image_mean, processor.image_processor.image_std
        self.mean = torch.tensor(mean).view(1, 3, 1, 1)
        self.std = torch.tensor(std).view(1, 3, 1, 1)
        self.prefixes = {shown: self._prefix(shown) for shown in (True, False)}

    def batch(
        self,
        pictures: Sequence[np.ndarray],
        pairs: Sequence[Sequence[QuestionAnswer]],
        shown: Sequence[bool],
    ) -> PretrainBatch:
        """Pack one row per picture; a row that is not `shown` gets the questions without image tokens.

        Args:
            pictures: uint8 (height, width, 3) of the side that the vision tower reads.
        """
        kept = [picture for picture, is_shown in zip(pictures, shown, strict=True) if is_shown]
        chats = [
            Chat(self.prefixes[is_shown], [self._block(pair) for pair in row])
            for is_shown, row in zip(shown, pairs, strict=True)
        ]
        return PretrainBatch(
            self.pixel_values(kept), pack(chats, self.tokenizer.pad_token_id, row_tokens=None)
        )

    def pixel_values(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """What the image processor gives for pictures that need no resizing, all at once."""
        if not pictures:
            return torch.empty(0, 3, 1, 1)
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
        return (pixels - self.mean) / self.std

    def _encode(self, pair: QuestionAnswer, shown: bool) -> tuple[list[int], list[int]]:
        turns = [
            {"role": "user", "content": IMAGE_PLACEHOLDER * shown + pair[0]},
            {"role": "assistant", "content": pair[1]},
        ]
        return encode_conversation(ChatFormat(self.tokenizer), turns, self.num_image_tokens * shown)

    def _prefix(self, shown: bool) -> list[int]:
        """What all questions begin with: the tokens before two different questions part ways."""
        first, second = (
            self._encode(("what?", "a"), shown)[0],
            self._encode(("is it?", "a"), shown)[0],
        )
        return first[
            : next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
        ]

    def _block(self, pair: QuestionAnswer) -> Block:
        if pair not in self.blocks:
            input_ids, labels = self._encode(pair, shown=True)
            length = len(self.prefixes[True])
            self.blocks[pair] = Block(input_ids[length:], labels[length:])
        return self.blocks[pair]


def packed_hidden(model: LlavaForConditionalGeneration, batch: PretrainBatch) -> Tensor:
    """Last hidden states (batch, tokens, dim) of the packed rows; gradients reach every weight."""
    packed = batch.packed
    embeddings = model.get_input_embeddings()(packed.input_ids)
    if len(batch.pixel_values):
        features = model.model.get_image_features(pixel_values=batch.pixel_values).pooler_output
        is_image = (packed.input_ids == model.config.image_token_id)[..., None]
        embeddings = embeddings.masked_scatter(
            is_image, torch.cat(list(features)).to(embeddings.dtype)
        )
    return model.model.language_model(
        inputs_embeds=embeddings,
        attention_mask=packed.attention_mask,
        position_ids=packed.position_ids,
        use_cache=False,
    ).last_hidden_state


@torch.no_grad()
def answered_right(model: LlavaForConditionalGeneration, batch: PretrainBatch) -> list[list[bool]]:
    """For every row and block: is each answer token the most likely one? Just then does greedy decoding answer so."""
    targets = batch.packed.labels[:, 1:]
    place = targets != IGNORE_INDEX
    wrong = torch.zeros_like(place)
    wrong[place] = (
        model.lm_head(packed_hidden(model, batch)[:, :-1][place]).argmax(dim=-1) != targets[place]
    )
    return [_by_run(*row) for row in zip(wrong.tolist(), place.tolist(), strict=True)]


def _by_run(wrong: list[bool], place: list[bool]) -> list[bool]:
    """One value per run of labelled tokens (a run is an answer): has it no wrong token?"""
    runs = [
        [w for w, _ in run]
        for labelled, run in groupby(zip(wrong, place, strict=True), lambda x: x[1])
        if labelled
    ]
    return [not any(run) for run in runs]
