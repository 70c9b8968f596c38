"""Pretraining of a small base LVLM from scratch, on questions about pictures.

One row is a picture with conversations about it, of one turn or several, packed so that none sees
another (packing.py).
"""

from collections.abc import Sequence
from itertools import groupby, takewhile
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase, ProcessorMixin

from components.losses.autoregressive import IGNORE_INDEX
from components.model.chat import ChatFormat, encode_conversation
from components.schema import IMAGE_PLACEHOLDER
from components.training.packing import Block, Chat, PackedBatch, pack

QuestionAnswer = tuple[str, str]
Conversation = tuple[QuestionAnswer, ...]


class PretrainBatch(NamedTuple):
    """Packed questions, and the pictures of the rows that show one."""

    pixel_values: Tensor  # (shown pictures, 3, height, width) float32
    packed: PackedBatch  # (batch, tokens)


class Encoder:
    """Conversations as packed blocks; a small world repeats single questions: these are kept."""

    def __init__(self, processor: ProcessorMixin, num_image_tokens: int) -> None:
        self.tokenizer: PreTrainedTokenizerBase = processor.tokenizer
        self.tokenizer.chat_template = processor.chat_template
        self.num_image_tokens = num_image_tokens
        self.blocks: dict[Conversation, Block] = {}

        # For `pixel_values`, which scales all pictures at once.
        mean, std = processor.image_processor.image_mean, processor.image_processor.image_std
        self.mean = torch.tensor(mean).view(1, 3, 1, 1)
        self.std = torch.tensor(std).view(1, 3, 1, 1)

        # Shared by all blocks of a row, with image tokens or without.
        self.prefixes = {shown: self._prefix(shown) for shown in (True, False)}

    def batch(
        self,
        pictures: Sequence[np.ndarray],
        conversations: Sequence[Sequence[Conversation]],
        shown: Sequence[bool],
    ) -> PretrainBatch:
        """Pack one row per picture; a row that is not `shown` has no image tokens.

        Args:
            pictures: uint8 (height, width, 3) of the side that the vision tower reads.
        """
        kept: list[np.ndarray] = []
        chats: list[Chat] = []
        for picture, row, is_shown in zip(pictures, conversations, shown, strict=True):
            chats.append(Chat(self.prefixes[is_shown], list(map(self._block, row))))
            if is_shown:
                kept.append(picture)

        # Rows of a batch are as long as the longest of them.
        packed = pack(chats, self.tokenizer.pad_token_id, row_tokens=None)
        return PretrainBatch(self.pixel_values(kept), packed)

    def pixel_values(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Scale pictures as the image processor does, all at once; they need no resizing."""
        if not pictures:
            return torch.empty(0, 3, 1, 1)
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
        return (pixels - self.mean) / self.std

    def _encode(self, conversation: Conversation, shown: bool) -> tuple[list[int], list[int]]:
        turns: list[dict[str, str]] = []
        for question, answer in conversation:
            # The picture stands in the first question.
            placeholder = IMAGE_PLACEHOLDER * (shown and not turns)
            turns.append({"role": "user", "content": placeholder + question})
            turns.append({"role": "assistant", "content": answer})
        return encode_conversation(ChatFormat(self.tokenizer), turns, self.num_image_tokens * shown)

    def _prefix(self, shown: bool) -> list[int]:
        """Return the tokens that all questions begin with, found from two different questions."""
        first, _ = self._encode((("what?", "a"),), shown)
        second, _ = self._encode((("is it?", "a"),), shown)
        shared = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
        return [token for token, _ in shared]

    def _block(self, conversation: Conversation) -> Block:
        block = self.blocks.get(conversation)
        if block is None:
            input_ids, labels = self._encode(conversation, shown=True)
            length = len(self.prefixes[True])
            block = Block(input_ids[length:], labels[length:])
        # Longer ones hardly ever come back.
        if len(conversation) == 1:
            self.blocks[conversation] = block
        return block


def packed_hidden(model: LlavaForConditionalGeneration, batch: PretrainBatch) -> Tensor:
    """Compute the last hidden states (batch, tokens, dim) of the packed rows, with gradient."""
    packed = batch.packed
    embeddings = model.get_input_embeddings()(packed.input_ids)

    # Image tokens in the order of the rows, as the pictures are.
    if len(batch.pixel_values):
        features = model.model.get_image_features(pixel_values=batch.pixel_values).pooler_output
        visual_tokens = torch.cat(list(features)).to(embeddings.dtype)
        is_image = (packed.input_ids == model.config.image_token_id)[..., None]
        embeddings = embeddings.masked_scatter(is_image, visual_tokens)

    return model.model.language_model(
        inputs_embeds=embeddings,
        attention_mask=packed.attention_mask,
        position_ids=packed.position_ids,
        use_cache=False,
    ).last_hidden_state


@torch.no_grad()
def answered_right(model: LlavaForConditionalGeneration, batch: PretrainBatch) -> list[list[bool]]:
    """Mark, for every row and block, the answers whose every token is the most likely one.

    Just then does greedy decoding give this answer.
    """
    # Logits at the answer positions only.
    targets = batch.packed.labels[:, 1:]
    is_answer = targets != IGNORE_INDEX
    predicted = model.lm_head(packed_hidden(model, batch)[:, :-1][is_answer]).argmax(dim=-1)
    is_wrong = torch.zeros_like(is_answer)
    is_wrong[is_answer] = predicted != targets[is_answer]

    # A run of answer tokens is one answer.
    answered = []
    for row_answer, row_wrong in zip(is_answer.tolist(), is_wrong.tolist(), strict=True):
        rights = []
        for in_answer, run in groupby(zip(row_answer, row_wrong, strict=True), itemgetter(0)):
            if in_answer:
                rights.append(not any(map(itemgetter(1), run)))
        answered.append(rights)
    return answered
