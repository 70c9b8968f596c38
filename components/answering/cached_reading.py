"""Reading with a KV cache: what many rows begin with is read once, and each row goes on from there.

Of the last layer a stretch that is only gone on from needs keys and values, and a prompt its last
token besides. The rest of that layer is left out; `components/model/last_layer.py` does the same
without a cache.
"""

import copy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from components.model.backbone import Backbone
from components.model.last_layer import last_layer_computes, rotate
from components.model.segments import position_ids


class Read(NamedTuple):
    """What the language model has read of some rows."""

    cache: DynamicCache
    mask: Tensor  # (rows, tokens), 1 where there is a token


def nothing_read(backbone: Backbone) -> Read:
    """One row, at its start."""
    config = backbone.language_model.config
    return Read(
        DynamicCache(config=config), torch.ones(1, 0, dtype=torch.long, device=backbone.device)
    )


def select(read: Read, rows: Tensor) -> Read:
    """Some of the rows, in any order and any number of times; `read` may be gone on from again."""
    cache = copy.copy(read.cache)
    cache.layers = [copy.copy(layer) for layer in cache.layers]
    cache.batch_select_indices(rows)
    return Read(cache, read.mask[rows])


def read_on(
    backbone: Backbone,
    read: Read,
    embeddings: Tensor,
    mask: Tensor | None = None,
    num_kept: int = 0,
) -> tuple[Tensor, Read]:
    """Read more tokens of every row: hidden states of the last `num_kept` (0 or 1) tokens, and all that is read now.

    embeddings: (rows, tokens, dim); mask: (rows, tokens), 0 for padding on the left, which takes no
    position. The cache of `read` is taken over: to go on from it again, `select` from it.
    """
    if mask is None:
        mask = read.mask.new_ones(embeddings.shape[:2])
    whole = torch.cat([read.mask, mask], dim=1)
    with last_layer_computes(backbone.language_model, partial(_narrow_layer, num_kept)):
        hidden = backbone.language_model(
            inputs_embeds=embeddings,
            attention_mask=whole,
            position_ids=position_ids(whole)[:, read.mask.shape[1] :],
            past_key_values=read.cache,
            use_cache=True,
        ).last_hidden_state
    return hidden[:, hidden.shape[1] - num_kept :], Read(read.cache, whole)


def _narrow_layer(
    num_kept: int,
    layer: Any,  # one of LAYERS
    hidden: Tensor,
    attention_mask: Tensor | None,
    position_embeddings: tuple[Tensor, Tensor],
    past_key_values: DynamicCache,
    **_: Any,
) -> Tensor:
    """What the layer puts out at the last `num_kept` (0 or 1) tokens; all of `hidden` gets into the cache."""
    attention, kept = layer.self_attn, hidden[:, hidden.shape[1] - num_kept :]
    normed = layer.input_layernorm(hidden)
    key, value = (
        projection(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for projection in (attention.k_proj, attention.v_proj)
    )
    key, value = past_key_values.update(
        rotate(key, *position_embeddings), value, attention.layer_idx
    )
    if not num_kept:
        return kept
    query = attention.q_proj(normed[:, -1:]).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    query = rotate(query, *(angles[:, -1:] for angles in position_embeddings))
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(
        attention.config._attn_implementation, eager_attention_forward
    )
    mask = None if attention_mask is None else attention_mask[:, :, -1:]
    mixed, _weights = attend(
        attention, query, key, value, mask, dropout=0.0, scaling=attention.scaling
    )
    kept = kept + attention.o_proj(mixed.flatten(2))
    return kept + layer.mlp(layer.post_attention_layernorm(kept))
