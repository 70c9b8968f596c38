"""Models of the tests: a tiny random LLaVA, and compressors whose adapters do something."""

from pathlib import Path
from typing import TypeVar

import torch

from components.drawn_world.tiny_llava import TinyLlavaParams, build_tiny_llava
from components.methods.fwd2bot import DoubleForward, build_double_forward
from components.methods.method import Method
from components.methods.method_settings import CompressorParams
from components.model.adapters import AdapterParams
from components.model.backbone import Backbone
from components.model.loading import load_backbone
from components.model.prepared import PreparedPictures

Model = TypeVar("Model", bound=Method)

TINY = TinyLlavaParams(
    image_size=48,
    patch_size=16,
    vision_hidden_size=16,
    vision_num_layers=3,
    vision_num_heads=2,
    position_amplitude=0.5,
    text_hidden_size=32,
    text_intermediate_size=48,
    text_num_layers=3,
    text_num_heads=4,
    text_initializer_range=0.02,
    vocab_size=320,
)
COMPRESSOR = CompressorParams(
    num_summary_tokens=4,
    prompt="Summarize the image in a few words.",
    prompt_embeddings="frozen",
    initial_queries="a large blue square",
    summary_scale=3.0,
    attention="causal",
    connector="frozen",
    logit_scale="learned",
    initial_logit_scale=1 / 0.07,
    max_logit_scale=100.0,
    adapters=AdapterParams(
        sharing="per_pass",
        rank=4,
        alpha=8,
        dropout=0.05,
        targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    ),
)
TEXTS = [
    "USER: what colour is the small circle? ASSISTANT: red",
    "a large blue square above a green star",
] * 10


def write_tiny_llava(folder: Path, seed: int = 0) -> Path:
    """Write a tiny random LLaVA into `folder`; returns it."""
    vlm, processor = build_tiny_llava(TINY, TEXTS, seed)
    vlm.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Backbone:
    return load_backbone(str(folder), None, dtype, "sdpa", pad_to_square=True)


def compressor(
    folder: Path, dtype: torch.dtype = torch.float32, params: CompressorParams = COMPRESSOR
) -> DoubleForward:
    """Build a compressor whose adapters do something.

    LoRA starts as the identity, so its second matrix is drawn anew.
    """
    return awakened(build_double_forward(load(folder, dtype), params, seed=0))


def awakened(model: Model) -> Model:
    """The second matrix of every adapter drawn anew; ready to be asked."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def prepared(pixel_values: torch.Tensor) -> PreparedPictures:
    """Pictures of a LLaVA given as pixels, (pictures, 3, height, width)."""
    return PreparedPictures(len(pixel_values), {"pixel_values": pixel_values})
