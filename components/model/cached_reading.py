"""Reading with a KV cache: a common beginning of many rows is read once, and each row goes on.

A beginning needs no more of the last layer than keys and values, a prompt its last token, too. The
rest of that layer is left out; `last_layer.py` does the same without a cache.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from components.model.backbone import Backbone
from components.model.last_layer import last_layer_computes, rotate, split_heads
from components.model.segments import Segment


class Read(NamedTuple):
    """State of a language model that has read some rows, with padding on the left."""

    language_model: Callable[..., Any]  # called as transformers' decoders are
    cache: DynamicCache
    mask: Tensor  # (rows, tokens), 1 where there is a token
    next_positions: Tensor  # (axes, rows), of the token that comes next


def nothing_read(
    backbone: Backbone, num_rows: int = 1, language_model: Callable[..., Any] | None = None
) -> Read:
    """Return the state before the first token; `language_model`: in place of the backbone's."""
    return Read(
        backbone.language_model if language_model is None else language_model,
        DynamicCache(config=backbone.language_model.config),
        torch.ones(num_rows, 0, dtype=torch.long, device=backbone.device),
        torch.zeros(1, num_rows, dtype=torch.long, device=backbone.device),
    )


def select(read: Read, rows: Tensor) -> Read:
    """Return the state of `rows`, in any order and number of times; `read` itself stays usable."""
    # Shallow copies: picking rows replaces the tensors of a layer, and changes none of them.
    cache = copy.copy(read.cache)
    cache.layers = [copy.copy(layer) for layer in cache.layers]
    cache.batch_select_indices(rows)

    return read._replace(
        cache=cache, mask=read.mask[rows], next_positions=read.next_positions[:, rows]
    )


def read_on(
    backbone: Backbone, read: Read, tokens: Segment, num_kept: int = 0
) -> tuple[Tensor, Read]:
    """Read more tokens of every row: the last `num_kept` (0 or 1) hidden states, and the new state.

    tokens: positions from 0, padding on the left. The cache of `read` is taken over: to go on from
    it again, `select` from it.
    """
    mask = torch.cat([read.mask, tokens.mask], dim=1)
    tokens = tokens._replace(positions=tokens.positions + read.next_positions[..., None])

    # A family has a mask of its own for pictures, and these stand in what is read first.
    attention_mask = mask if read.mask.shape[1] else backbone.attention(tokens, mask)
    with last_layer_computes(backbone.language_model, partial(_narrow_layer, num_kept)):
        hidden = read.language_model(
            inputs_embeds=tokens.embeddings,
            attention_mask=attention_mask,
            position_ids=tokens.position_ids,
            past_key_values=read.cache,
            use_cache=True,
        ).last_hidden_state

    next_positions = tokens.positions[..., -1] + 1
    return (
        hidden[:, hidden.shape[1] - num_kept :],
        read._replace(mask=mask, next_positions=next_positions),
    )


def _narrow_layer(
    num_kept: int,
    layer: Any,  # one of LAYERS
    hidden: Tensor,
    attention_mask: Tensor | None,
    position_embeddings: tuple[Tensor, Tensor],
    past_key_values: DynamicCache,
    **_: Any,
) -> Tensor:
    """Return the layer's output at the last `num_kept` (0 or 1) tokens; all get into the cache."""
    attention, kept = layer.self_attn, hidden[:, hidden.shape[1] - num_kept :]
    normed = layer.input_layernorm(hidden)

    # Keys and values of every token: what is read later attends to them.
    cosines, sines = position_embeddings
    key = rotate(split_heads(attention.k_proj(normed), attention.head_dim), cosines, sines)
    value = split_heads(attention.v_proj(normed), attention.head_dim)
    key, value = past_key_values.update(key, value, attention.layer_idx)
    if not num_kept:
        return kept

    # The query of the last token alone: its hidden state predicts the next one.
    query = split_heads(attention.q_proj(normed[:, -1:]), attention.head_dim)
    query = rotate(query, cosines[:, -1:], sines[:, -1:])

    attend = ALL_ATTENTION_FUNCTIONS.get_interface(
        attention.config._attn_implementation, eager_attention_forward
    )
    mask = None if attention_mask is None else attention_mask[:, :, -1:]
    mixed, _weights = attend(
        attention, query, key, value, mask, dropout=0.0, scaling=attention.scaling
    )
    kept = kept + attention.o_proj(mixed.flatten(2))
    return kept + layer.mlp(layer.post_attention_layernorm(kept))
