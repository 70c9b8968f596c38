"""Decoding of answers with a KV cache, whatever visual tokens stand in the prompts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from components.model.backbone import Backbone
from components.model.cached_reading import Read, nothing_read, read_on, select
from components.model.segments import Segment, text_segment

# share of the rows of a batch; with fewer unfinished ones the finished are taken out
LEAST_OPEN = 0.5

# logits (rows, vocab), numbers of the prompts (rows,), step -> next tokens (rows,)
Choose = Callable[[Tensor, Tensor, int], Tensor]


@torch.inference_mode()
def base_answer(
    backbone: Backbone,
    pictures: Segment | None,
    input_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
) -> list[list[int]]:
    """Answer prompts about a picture each with the base model: new ids, without the end token.

    Token for token as transformers' `generate` answers each prompt alone.
    """
    ids, mask = left_pad(input_ids, backbone.device)
    return decode(backbone, backbone.chat_segment(ids, mask, pictures), max_new_tokens)


def decode(
    backbone: Backbone,
    chats: Segment,
    max_new_tokens: int,
    language_model: Callable[..., Any] | None = None,
) -> list[list[int]]:
    """Answer chats padded on the left greedily, with the adapter in use: new token ids of each.

    `language_model` is called in place of the backbone's, with the same arguments.
    """
    start = nothing_read(backbone, chats.num_rows, language_model)
    hidden, read = read_on(backbone, start, chats, num_kept=1)
    return write_answers(backbone, read, hidden[:, 0], max_new_tokens, likeliest)


def write_answers(
    backbone: Backbone, read: Read, hidden: Tensor, max_new_tokens: int, choose: Choose
) -> list[list[int]]:
    """Write answers to prompts that have been read: new token ids, without the end token.

    hidden: (rows, dim) of the last tokens of the prompts.
    """
    end_ids = torch.tensor(end_token_ids(backbone), device=backbone.device)
    written = torch.full((len(hidden), max_new_tokens), -1, device=backbone.device)

    # Which prompt each row of the batch is: rows are taken out as they end.
    rows = torch.arange(len(hidden), device=backbone.device)
    is_open = torch.ones_like(rows, dtype=torch.bool)

    for step in range(max_new_tokens):
        tokens = choose(backbone.lm_head(hidden), rows, step)
        is_open &= ~torch.isin(tokens, end_ids)
        written[rows, step] = torch.where(is_open, tokens, -1)

        # The last tokens are not read: nothing follows them.
        num_open = int(is_open.sum())
        if num_open == 0 or step == max_new_tokens - 1:
            break

        # Finished rows cost as much as open ones; to take them out copies the cache.
        if num_open < LEAST_OPEN * len(rows):
            kept = is_open.nonzero()[:, 0]
            read = select(read, kept)
            rows, tokens, is_open = rows[kept], tokens[kept], is_open[kept]

        new = text_segment(backbone.embed(tokens[:, None]))
        hidden, read = read_on(backbone, read, new, num_kept=1)
        hidden = hidden[:, 0]

    return [row[row >= 0].tolist() for row in written.cpu()]


def likeliest(logits: Tensor, rows: Tensor, step: int) -> Tensor:
    """Choose the token with the highest logit of each row (rows, vocab): (rows,)."""
    return logits.argmax(-1)


def left_pad(input_ids: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Align the ends of prompts of different lengths: ids and attention mask, (batch, tokens) each.

    The filler is id 0, which is masked and not an image placeholder in any supported model.
    """
    width = max(map(len, input_ids))
    ids, mask = [], []
    for row in input_ids:
        filler = [0] * (width - len(row))
        ids.append([*filler, *row])
        mask.append(filler + [1] * len(row))
    return torch.tensor(ids, dtype=torch.long, device=device), torch.tensor(mask, device=device)


def end_token_ids(backbone: Backbone) -> list[int]:
    """List the tokens that end an answer: the one that training writes, and the model's own."""
    end = backbone.vlm.generation_config.eos_token_id
    named = end if isinstance(end, list) else [end]
    return sorted({backbone.tokenizer.eos_token_id, *named} - {None})
