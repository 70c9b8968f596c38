"""The sizes of LLaVA-1.5, as a configuration without weights."""

from typing import NamedTuple

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig


class Size(NamedTuple):
    """The size of a language model of LLaVA-1.5."""

    name: str
    dim: int
    intermediate: int
    num_layers: int
    num_heads: int


SEVEN_B, THIRTEEN_B = SIZES = (Size("7B", 4096, 11008, 32, 32), Size("13B", 5120, 13824, 40, 40))


def llava_config(size: Size) -> LlavaConfig:
    """Return the configuration of the published checkpoint, sizes only."""
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=size.dim,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
    )
    return LlavaConfig(vision_config=vision, text_config=text)
