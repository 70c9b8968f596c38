"""A CLIP (arXiv 2103.00020) small enough for a laptop, for the pictures and tokens of a LLaVA."""

import torch
from pydantic import Field
from transformers import CLIPConfig, CLIPModel

from components.methods.blocks.image_text_models import TextFrame
from components.methods.blocks.vision_tower import llava_of
from components.model.backbone import Backbone
from components.model.positions import sincos_positions
from components.params import Params


class SmallClipParams(Params):
    """Sizes of a CLIP that starts from nothing."""

    patch_size: int = Field(ge=1)  # pixels per side
    vision_hidden_size: int = Field(ge=4, multiple_of=4)  # two axes, sine and cosine
    vision_num_layers: int = Field(ge=1)
    # of the first position embeddings of patches, sine and cosine
    position_amplitude: float = Field(gt=0)
    text_hidden_size: int = Field(ge=1)
    text_num_layers: int = Field(ge=1)
    num_heads: int = Field(ge=1)  # of each encoder
    projection_dim: int = Field(ge=1)  # of the vectors
    max_text_tokens: int = Field(ge=3)  # first and last one included


def build_small_clip(backbone: Backbone, sizes: SmallClipParams, seed: int) -> CLIPModel:
    """Build a CLIP with random weights that reads what a LLaVA's processor and tokenizer give.

    Raises ValueError for other families.
    """
    # pictures and tokens come as the base model's processor and tokenizer make them
    llava, tokenizer = llava_of(backbone, "dual_encoder without a checkpoint"), backbone.tokenizer
    image_size = llava.vlm.config.vision_config.image_size
    text_config = layer_sizes(sizes.text_hidden_size, sizes.text_num_layers, sizes) | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": sizes.max_text_tokens,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision_config = layer_sizes(sizes.vision_hidden_size, sizes.vision_num_layers, sizes) | {
        "image_size": image_size,
        "patch_size": sizes.patch_size,
    }
    config = CLIPConfig(
        text_config=text_config, vision_config=vision_config, projection_dim=sizes.projection_dim
    )

    # the random numbers of the process go on as before
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = CLIPModel(config)

    # patches start with positions, as in the tower of the tiny LLaVA
    positions = sincos_positions(image_size // sizes.patch_size, sizes.vision_hidden_size)
    with torch.no_grad():
        embeddings = encoder.vision_model.embeddings.position_embedding.weight
        embeddings.copy_(sizes.position_amplitude * positions)
    return encoder


def layer_sizes(hidden_size: int, count: int, sizes: SmallClipParams) -> dict[str, int]:
    """Name the sizes of an encoder's layers as transformers' configs do."""
    return {
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "num_hidden_layers": count,
        "num_attention_heads": sizes.num_heads,
        "projection_dim": sizes.projection_dim,
    }


def small_clip_frame(backbone: Backbone, sizes: SmallClipParams) -> TextFrame:
    """Frame texts by the base model's first token, if it has one, and the end token."""
    bos, eos = backbone.tokenizer.bos_token_id, backbone.tokenizer.eos_token_id
    before = () if bos is None else (bos,)
    return TextFrame(before, (eos,), filler=0, min_tokens=0, max_tokens=sizes.max_text_tokens)
