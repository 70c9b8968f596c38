"""The vision tower of a LLaVA, as reducers read it: patches of layers, class attention, keys."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from components.model.backbone import Backbone
from components.model.families.llava import LlavaBackbone, num_read_layers
from components.model.prepared import PreparedPictures


class Needs(NamedTuple):
    """The parts of the tower that a reducer reads."""

    # hidden states, numbered as transformers does, -1 the last; none: the connector's
    layers: tuple[int, ...] = ()
    # attention of the class token, and keys, in the block behind the connector's layer
    attention: bool = False


class Reading(NamedTuple):
    """The states of the tower for some pictures, without gradients: it is frozen."""

    # of each layer asked for: (pictures, patches, channels), in raster order
    patches: tuple[Tensor, ...]
    # of the class token to each patch, over all heads at once: (pictures, patches)
    attention: Tensor | None
    keys: Tensor | None  # of the patches: (pictures, patches, channels)


class TowerShape(NamedTuple):
    """Sizes of a base model, from which a reducer takes its own."""

    side: int  # patches along each side of a picture
    channels: int  # of a patch
    dim: int  # of the language model's input


def llava_of(backbone: Backbone, method: str) -> LlavaBackbone:
    """Return the backbone if it is a LLaVA-1.5.

    Raises ValueError for other families, whose patches are no square grid.
    """
    if not isinstance(backbone, LlavaBackbone):
        raise ValueError(
            f"train.method.name: {method} reads the patches of a LLaVA-1.5, and "
            f"{backbone.source.name} is none; use fwd2bot, or such a base model"
        )
    return backbone


def tower_shape(backbone: LlavaBackbone) -> TowerShape:
    """Return the sizes of a LLaVA's tower."""
    vision = backbone.vlm.config.vision_config
    return TowerShape(vision.image_size // vision.patch_size, vision.hidden_size, backbone.dim)


def check_needs(backbone: LlavaBackbone, needs: Needs) -> None:
    """Raise ValueError when the tower does not have, or does not compute, what is to be read."""
    name = backbone.source.name
    num_states = len(backbone.vlm.model.vision_tower.encoder.layers) + 1
    highest = num_read_layers(backbone.vlm)

    # the attention is that of the class token, in the block behind the connector's layer
    if needs.attention and not backbone.has_class_token:
        raise ValueError(
            f"{name}: its vision tower has no class token, whose attention train.method.name "
            "needs; use another method"
        )
    if needs.attention and backbone.read_layer % num_states == num_states - 1:
        raise ValueError(
            f"{name}: its connector reads the last layer of the vision tower, and "
            "train.method.name needs the attention of the block behind; use another method"
        )

    # layers behind the connector's never run
    for layer in needs.layers:
        if not (-num_states <= layer < num_states and layer % num_states <= highest):
            raise ValueError(
                f"layers: the vision tower of {name} has no hidden state {layer} that is "
                f"computed; use {-num_states} to {highest - num_states}, its connector's"
            )


@torch.no_grad()
def read_tower(backbone: LlavaBackbone, pictures: PreparedPictures, needs: Needs) -> Reading:
    """Run the tower once, for needs that `check_needs` has found good."""
    states = backbone.vision_states(pictures)

    # patches alone, without the class token in front
    first = int(backbone.has_class_token)
    layers = needs.layers or (backbone.read_layer,)
    patches = tuple(states[layer][:, first:] for layer in layers)
    if not needs.attention:
        return Reading(patches, None, None)
    return Reading(patches, *class_attention(backbone, states))


def class_attention(backbone: LlavaBackbone, states: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Compute the class token's attention to each patch, and the keys of the patches.

    Both are of the block that reads the connector's features, with one head over all channels, as
    PruMerge's (arXiv 2403.15388, §3.1): softmax(q kᵀ / √channels).
    """
    blocks: Any = backbone.vlm.model.vision_tower.encoder.layers
    block, inputs = blocks[backbone.read_layer % len(states)], states[backbone.read_layer]
    normed = block.layer_norm1(inputs)
    query, keys = block.self_attn.q_proj(normed[:, :1]), block.self_attn.k_proj(normed)
    # Products in float32: in half precision many patches would have the same.
    scores = query.float() @ keys.float().transpose(1, 2) / keys.shape[-1] ** 0.5
    return scores.softmax(-1)[:, 0, 1:], keys[:, 1:]


def matrix_weights(module: nn.Module) -> int:
    """Count the weights of linear and convolution layers, without biases and adapters."""
    count = 0
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Conv2d) and "lora_" not in name:
            count += part.weight.numel()
    return count


def vision_weights(backbone: Backbone) -> int:
    """Count N_v, the weights of vision tower and connector that multiply in layers that run."""
    unread = sum(map(matrix_weights, backbone.unread_modules))
    return sum(map(matrix_weights, backbone.vision_modules)) - unread


def encoding_flops(backbone: LlavaBackbone) -> int:
    """Count the operations of vision tower and connector for one picture: 2 N_v V.

    components/costs/inference_costs.py has the same formula.
    """
    return 2 * vision_weights(backbone) * backbone.num_image_tokens
