"""Answering: greedy decoding of chats, whatever visual tokens stand in them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from components.model.backbone import Backbone
from components.model.segments import Segment


@torch.inference_mode()
def base_answer(
    backbone: Backbone,
    pictures: Segment | None,
    input_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
) -> list[list[int]]:
    """Answer each prompt about its picture with the base model, from all image tokens.

    Returns new token ids without the end token: token for token what `generate` of transformers
    gives for each prompt alone.
    """
    ids, mask = left_pad(input_ids, backbone.device)
    return decode(backbone, backbone.chat_segment(ids, mask, pictures), max_new_tokens)


def decode(
    backbone: Backbone,
    chats: Segment,
    max_new_tokens: int,
    language_model: Callable[..., Any] | None = None,
) -> list[list[int]]:
    """Decode chats padded on the left greedily, with the adapter in use: new token ids of each.

    `language_model` is called in place of the backbone's, with the same arguments.
    """
    read = backbone.language_model if language_model is None else language_model
    end_ids = torch.tensor(end_token_ids(backbone), device=backbone.device)
    cache = DynamicCache(config=backbone.language_model.config)
    inputs, mask = backbone.arguments(chats), chats.mask
    is_open = torch.ones(chats.num_rows, dtype=torch.bool, device=backbone.device)

    steps: list[Tensor] = []
    while len(steps) < max_new_tokens and is_open.any():
        hidden = read(**inputs, past_key_values=cache, use_cache=True).last_hidden_state
        token = backbone.lm_head(hidden[:, -1]).argmax(-1)  # (batch,)
        is_open &= ~torch.isin(token, end_ids)
        steps.append(torch.where(is_open, token, -1))

        # Rows that have ended are read on with the others: what they say is marked with -1.
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        inputs = {
            "inputs_embeds": backbone.embed(token[:, None]),
            "attention_mask": mask,
            "position_ids": inputs["position_ids"][..., -1:] + 1,
        }

    # One copy from the device for all steps.
    if not steps:
        return [[] for _ in range(chats.num_rows)]
    new_tokens = torch.stack(steps, dim=1)  # (batch, steps)
    return [row[row >= 0].tolist() for row in new_tokens.cpu()]


def left_pad(input_ids: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Align the ends of prompts: ids and attention mask, (batch, tokens) each.

    The filler is id 0, which is masked and not an image placeholder in any supported model.
    """
    width = max(map(len, input_ids))
    ids = [[0] * (width - len(row)) + list(row) for row in input_ids]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in input_ids]
    return torch.tensor(ids, dtype=torch.long, device=device), torch.tensor(mask, device=device)


def end_token_ids(backbone: Backbone) -> list[int]:
    """Return the tokens that end an answer.

    These are the one that training writes, and those in the model's own generation settings.
    """
    end = backbone.vlm.generation_config.eos_token_id
    named = end if isinstance(end, list) else [end]
    return sorted({backbone.tokenizer.eos_token_id, *named} - {None})
