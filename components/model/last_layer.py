"""The last decoder layer at the positions that are read, and nowhere else.

The compression pass reads the last layer at the summary tokens only, the generation pass at the
positions that predict an answer. Keys and values are needed of every token; queries,
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
    """Return the model's hidden states after the final norm at `places`.

    places (batch, kept) -> hidden states (batch, kept, dim); `inputs` go to the model.
    """
    with last_layer_computes(language_model, partial(narrow_layer, places)) as is_narrow:
        hidden = language_model(**inputs).last_hidden_state
    return hidden if is_narrow else take(hidden, places)


@contextmanager
def last_layer_computes(
    language_model: PreTrainedModel, forward: Callable[..., Tensor]
) -> Iterator[bool]:
    """Let the last layer compute `forward(layer, …)` for the time of the block.

    It must not be recomputed after the block. Gives False, and changes nothing, for a layer of
    another build or with other attention kernels.
    """
    layer: Any = language_model.layers[-1]  # type: ignore[index]  # a ModuleList
    kernels = language_model.config._attn_implementation
    if not isinstance(layer, LAYERS) or kernels not in ATTENTIONS:
        yield False
        return

    # An attribute of the object hides the method of its class, and is simply removed again.
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
    """Compute the layer at `places`, as transformers' LlamaDecoderLayer does at every token.

    hidden (batch, tokens, dim), places (batch, kept) -> (batch, kept, dim).
    """
    attention, kept = layer.self_attn, take(hidden, places)
    normed = layer.input_layernorm(hidden)

    # Every token is attended to, and only the kept ones attend.
    query = split_heads(attention.q_proj(take(normed, places)), attention.head_dim)
    key = split_heads(attention.k_proj(normed), attention.head_dim)
    value = split_heads(attention.v_proj(normed), attention.head_dim)
    cosines, sines = (angles.expand(len(places), -1, -1) for angles in position_embeddings)
    query = rotate(query, take(cosines, places), take(sines, places))
    key = rotate(key, cosines, sines)

    # The kernel that the model itself would run.
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(
        attention.config._attn_implementation, eager_attention_forward
    )
    mask = mask_at(attention_mask, places, hidden.shape[1])
    dropout = attention.attention_dropout if attention.training else 0.0
    mixed, _weights = attend(
        attention, query, key, value, mask, dropout=dropout, scaling=attention.scaling
    )

    # Both residual connections, at the kept places.
    kept = kept + attention.o_proj(mixed.flatten(2))
    return kept + layer.mlp(layer.post_attention_layernorm(kept))


def split_heads(states: Tensor, head_dim: int) -> Tensor:
    """Split by heads: (batch, tokens, heads * head_dim) -> (batch, heads, tokens, head_dim)."""
    return states.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def take(values: Tensor, places: Tensor) -> Tensor:
    """Pick tokens: (batch, tokens, dim) at `places` (batch, kept) -> (batch, kept, dim)."""
    # `take_along_dim` would check every index again for every number of a token.
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))


def rotate(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Apply rotary position embeddings (RoPE, arXiv 2104.09864).

    states (batch, heads, tokens, head_dim), angles (batch, tokens, head_dim) each.
    """
    return states * cosines[:, None] + rotate_half(states) * sines[:, None]


def mask_at(mask: Tensor | None, places: Tensor, num_tokens: int) -> Tensor:
    """Return the rows `places` of an attention mask: (batch, 1, kept, tokens).

    `mask`: (batch, 1, tokens, tokens), or None for plain causal attention.
    """
    if mask is None:
        return (torch.arange(num_tokens, device=places.device) <= places[..., None])[:, None]
    return mask.expand(len(places), -1, -1, -1).take_along_dim(places[:, None, :, None], dim=2)
