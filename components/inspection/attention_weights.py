"""What attends to what (Fig. 4): summary queries to the picture, the words of an answer to what stands in its place.

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
    """An answer, and what each step of writing it attends to."""

    tokens: list[int]  # of the answer, without the end token
    # (layers, steps, visual tokens); one step more than tokens if the answer came to its end
    weights: Tensor


@contextmanager
def watch(language_model: Any, num_positions: int) -> Iterator[Seen]:
    """Note what the last `num_positions` positions of every pass in the block attend to, mean over the heads.

    Raises ValueError for a language model that computes its attention in another way.
    """
    if language_model.config._attn_implementation != KERNEL:
        raise ValueError(
            f"the language model computes its attention by {language_model.config._attn_implementation}, of which "
            f"nothing is noted; load it with attention {KERNEL!r}"
        )
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

    ALL_ATTENTION_FUNCTIONS[KERNEL] = attend_and_note
    try:
        yield seen
    finally:
        del ALL_ATTENTION_FUNCTIONS[KERNEL]  # transformers' own comes back


def attention_weights(
    query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, num_positions: int
) -> Tensor:
    """The attention of the last positions, float32 (rows, heads, positions, keys).

    query: (rows, heads, positions, head dim), key: (rows, key heads, keys, head dim). The mask is
    added or, of bool, says who is seen; without one the positions are the last of a causal
    sequence.
    """
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = (query[:, :, -num_positions:].float() @ key.float().transpose(2, 3)) * scaling
    positions, keys = scores.shape[2:]
    if mask is None:
        mask = torch.ones(positions, keys, dtype=torch.bool, device=key.device).tril(
            keys - positions
        )
    mask = mask[..., -num_positions:, :keys]
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


@torch.inference_mode()
def query_attention(model: Method, picture: PreparedPictures) -> Tensor:
    """What the summary queries attend to in one picture as it is compressed: (layers, summary tokens, image tokens).

    Raises AbsentError for a compressor whose language model reads no summary queries behind the
    picture.
    """
    if not isinstance(model, DoubleForward) or model.chosen.name != FWD2BOT:
        raise AbsentError(
            f"{model.chosen.name} has no summary queries that the language model reads"
        )
    read = model.backbone.encode_images(picture)
    first = len(model.bos_ids) + len(model.backbone.chat.frame_ids[0])
    with watch(model.backbone.language_model, model.num_summary_tokens) as seen:
        model.compress_images(read)
    return torch.stack([weights[0] for (weights,) in seen])[..., first : first + read.lengths[0]]


def answer_attention(
    language_model: Any, prompt: Sequence[int], visual_id: int, generate: Callable[[], list[int]]
) -> AnswerAttention:
    """What an answer attends to among the visual tokens of its prompt, which stand at the ids `visual_id`.

    `generate` decodes the answer to this one prompt, a pass per new token. Each step counts by the
    position that the new token is predicted at, as transformers counts.
    """
    places = [place for place, token in enumerate(prompt) if token == visual_id]
    with watch(language_model, 1) as seen:
        tokens = generate()
    weights = [
        torch.stack([whole(step, len(prompt) + n)[0, 0, places] for n, step in enumerate(steps)])
        for steps in seen
    ]
    return AnswerAttention(tokens, torch.stack(weights))


def whole(weights: Tensor, num_tokens: int) -> Tensor:
    """(rows, positions, keys) over all tokens so far: 0 for the first where a sliding window has dropped them."""
    return torch.nn.functional.pad(weights, (num_tokens - weights.shape[-1], 0))
