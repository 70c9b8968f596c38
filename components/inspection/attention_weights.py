"""Attention (Fig. 4) of summary queries on the picture, and of an answer on its visual tokens.

The models compute as always, by a kernel that gives no weights. The queries and keys that it is
handed are also handed to `attention_weights`, which works out the few rows that are wanted.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from components.inspection.parts import AbsentError
from components.methods.fwd2bot import DoubleForward
from components.methods.method import Method
from components.methods.method_settings import FWD2BOT
from components.model.prepared import PreparedPictures

KERNEL = "sdpa"  # transformers' name of what both models are loaded with
Seen = list[list[Tensor]]  # per decoder layer, then per pass: (rows, watched positions, keys)


class AnswerAttention(NamedTuple):
    """Answer, with the attention of each step of writing it."""

    tokens: list[int]  # of the answer, without the end token
    # (layers, steps, visual tokens); one step more than tokens if the answer came to its end
    weights: Tensor


@contextmanager
def watch(language_model: Any, num_positions: int) -> Iterator[Seen]:
    """Note the attention of the last `num_positions` positions of every pass, mean over the heads.

    Raises ValueError for a language model that computes its attention in another way.
    """
    if language_model.config._attn_implementation != KERNEL:
        raise ValueError(
            f"the language model computes its attention by "
            f"{language_model.config._attn_implementation}, of which nothing is noted; "
            f"load it with attention {KERNEL!r}"
        )

    # Attention of other modules, such as the vision tower, passes by.
    numbers = {layer.self_attn: number for number, layer in enumerate(language_model.layers)}
    seen: Seen = [[] for _ in numbers]
    attend = ALL_ATTENTION_FUNCTIONS[KERNEL]

    def attend_and_note(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
    ) -> Any:
        if module in numbers:
            weights = attention_weights(query, key, mask, settings["scaling"], num_positions)
            seen[numbers[module]].append(weights.mean(1))
        return attend(module, query, key, value, mask, **settings)

    # The models' kernel stays the one that computes; the weights are worked out beside it.
    ALL_ATTENTION_FUNCTIONS[KERNEL] = attend_and_note
    try:
        yield seen
    finally:
        del ALL_ATTENTION_FUNCTIONS[KERNEL]  # transformers' own comes back


def attention_weights(
    query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, num_positions: int
) -> Tensor:
    """Compute the attention of the last positions, float32 (rows, heads, positions, keys).

    query: (rows, heads, positions, head dim), key: (rows, key heads, keys, head dim). The mask is
    added or, of bool, says who is seen; without one the positions are the last of a causal
    sequence.
    """
    # Grouped heads share their keys.
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = (query[:, :, -num_positions:].float() @ key.float().transpose(2, 3)) * scaling

    # What a position may see: by the mask, else all before it.
    positions, keys = scores.shape[2:]
    if mask is None:
        every = torch.ones(positions, keys, dtype=torch.bool, device=key.device)
        mask = every.tril(keys - positions)
    mask = mask[..., -num_positions:, :keys]

    # A mask of bool says who is seen; any other is added.
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


@torch.inference_mode()
def query_attention(model: Method, picture: PreparedPictures) -> Tensor:
    """Return the attention of the summary queries on one picture as it is compressed.

    (layers, summary tokens, image tokens). Raises AbsentError for a compressor whose language
    model reads no summary queries behind the picture.
    """
    if not isinstance(model, DoubleForward) or model.chosen.name != FWD2BOT:
        raise AbsentError(
            f"{model.chosen.name} has no summary queries that the language model reads"
        )

    read = model.backbone.encode_images(picture)
    with watch(model.backbone.language_model, model.num_summary_tokens) as seen:
        model.compress_images(read)

    # The pass reads BOS and the text before the picture, then the picture itself.
    first = len(model.bos_ids) + len(model.backbone.chat.frame_ids[0])
    layers = torch.stack([weights[0] for (weights,) in seen])
    return layers[..., first : first + read.lengths[0]]


def answer_attention(
    language_model: Any, prompt: Sequence[int], visual_id: int, generate: Callable[[], list[int]]
) -> AnswerAttention:
    """Return the attention of an answer on the visual tokens of its prompt, the ids `visual_id`.

    `generate` decodes the answer to this one prompt, a pass per new token. Each step counts by the
    position that the new token is predicted at, as transformers counts.
    """
    # One pass per new token: the last position predicts it.
    places = [place for place, token in enumerate(prompt) if token == visual_id]
    with watch(language_model, 1) as seen:
        tokens = generate()

    # Each step sees one token more; only the visual ones count.
    layers = []
    for steps in seen:
        rows = []
        for number, step in enumerate(steps):
            row = over_all_tokens(step, len(prompt) + number)[0, 0]
            rows.append(row[places])
        layers.append(torch.stack(rows))
    return AnswerAttention(tokens, torch.stack(layers))


def over_all_tokens(weights: Tensor, num_tokens: int) -> Tensor:
    """Pad (rows, positions, keys) to all tokens so far: 0 where a sliding window dropped them."""
    return torch.nn.functional.pad(weights, (num_tokens - weights.shape[-1], 0))
