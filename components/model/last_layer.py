"""The last decoder layer at the positions that somebody reads, and nowhere else.

Of what the last layer puts out, the compression pass keeps the summary tokens and the generation
pass the positions that predict an answer. Keys and values are needed of every token; queries,
attention, output projection and MLP only at the kept positions. The result is the same, and so is
every gradient.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    eager_attention_forward,
    rotate_half,
)
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

LAYERS = (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer)  # built alike
ATTENTIONS = ("sdpa", "eager")  # take a mask of any shape


def hidden_states_at(language_model: PreTrainedModel, places: Tensor, **inputs: Any) -> Tensor:
    """The model's hidden states after the final norm, (batch, kept, dim), at the positions `places` (batch, kept)."""
    with last_layer_computes(language_model, partial(narrow_layer, places)) as is_narrow:
        hidden = language_model(**inputs).last_hidden_state
    return hidden if is_narrow else take(hidden, places)


@contextmanager
def last_layer_computes(
    language_model: PreTrainedModel, forward: Callable[..., Tensor]
) -> Iterator[bool]:
    """Let the last layer compute `forward(layer, …)` for the time of the block; it must not be recomputed after it.

    Gives False, and changes nothing, for a layer of another build or one that is read by other
    kernels.
    """
    layer: Any = language_model.layers[-1]  # type: ignore[index]  # a ModuleList
    if (
        not isinstance(layer, LAYERS)
        or language_model.config._attn_implementation not in ATTENTIONS
    ):
        yield False
        return
    layer.forward = partial(forward, layer)  # type: ignore[method-assign]
    try:
        yield True
    finally:
        del layer.forward


def narrow_layer(
    places: Tensor,
    layer: Any,  # one of LAYERS
    hidden: Tensor,
    attention_mask: Tensor | None,
    position_embeddings: tuple[Tensor, Tensor],
    **_: Any,
) -> Tensor:
    """What the layer puts out for `hidden` (batch, tokens, dim) at `places` (batch, kept): (batch, kept, dim)."""
    attention, kept = layer.self_attn, take(hidden, places)
    normed = layer.input_layernorm(hidden)
    query, key, value = (
        projection(states).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for projection, states in (
            (attention.q_proj, take(normed, places)),
            (attention.k_proj, normed),
            (attention.v_proj, normed),
        )
    )
    rotations = [angles.expand(len(places), -1, -1) for angles in position_embeddings]
    query, key = (
        rotate(query, *(take(angles, places) for angles in rotations)),
        rotate(key, *rotations),
    )
    read = ALL_ATTENTION_FUNCTIONS.get_interface(
        attention.config._attn_implementation, eager_attention_forward
    )
    mask = mask_at(attention_mask, places, hidden.shape[1])
    dropout = attention.attention_dropout if attention.training else 0.0
    mixed, _weights = read(
        attention, query, key, value, mask, dropout=dropout, scaling=attention.scaling
    )
    kept = kept + attention.o_proj(mixed.flatten(2))
    return kept + layer.mlp(layer.post_attention_layernorm(kept))


def take(values: Tensor, places: Tensor) -> Tensor:
    """(batch, tokens, dim) at `places` (batch, kept): (batch, kept, dim)."""
    return values.take_along_dim(places[..., None], dim=1)


def rotate(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary position embedding of (batch, heads, tokens, head dim) by angles (batch, tokens, head dim)."""
    return states * cosines[:, None] + rotate_half(states) * sines[:, None]


def mask_at(mask: Tensor | None, places: Tensor, num_tokens: int) -> Tensor:
    """The rows `places` of an attention mask (batch, 1, tokens, tokens), which is plain causal if there is none."""
    if mask is None:
        return (torch.arange(num_tokens, device=places.device) <= places[..., None])[:, None]
    return mask.expand(len(places), -1, -1, -1).take_along_dim(places[:, None, :, None], dim=2)
