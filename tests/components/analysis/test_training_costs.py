"""The formulas against PyTorch's own counter, on the step itself; attention is eager, whose products it can see."""

from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from components.analysis.training_costs import Pass, Step, model_shape, step_flops, vision_flops
from components.losses.autoregressive import IGNORE_INDEX
from components.model.double_forward import DoubleForward, enable_gradient_checkpointing
from components.training.collate import TrainBatch
from components.training.step import backward_step
from tests.components.model.conftest import llava_folder  # noqa: F401
from tests.components.training.test_gradient_caching import BOTH, GROUPS, chunks_of
from tests.components.training.world import build_model


def shape_of(model: DoubleForward, chunk: TrainBatch) -> Step:
    num_others = 1 + model.prompt_ids.numel() + chunk.num_summary_tokens
    return Step(
        pictures=Pass(len(chunk.pixel_values), num_others + model.backbone.num_image_tokens, chunk.num_summary_tokens),
        captions=Pass(len(chunk.caption_ids), num_others + chunk.caption_ids.shape[1], chunk.num_summary_tokens),
        conversations=Pass(*chunk.conversation_ids.shape, chunk.predicting.shape[1]),
        num_answer_tokens=int((chunk.targets != IGNORE_INDEX).sum()),
    )


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("turns", ["together", "apart"])
@pytest.mark.parametrize("size", [3, 100])
def test_the_operations_of_a_step_are_what_pytorch_counts(
    llava_folder: Path,  # noqa: F811
    size: int,
    turns: str,
    is_checkpointed: bool,
) -> None:
    model = build_model(llava_folder)
    model.backbone.vlm.set_attn_implementation("eager")
    if is_checkpointed:
        enable_gradient_checkpointing(model)
    chunks = chunks_of(model, size, turns, GROUPS)
    with FlopCounterMode(display=False) as counter:
        backward_step(model, chunks, BOTH)
    expected = step_flops(model_shape(model), [shape_of(model, chunk) for chunk in chunks], is_checkpointed)
    assert counter.get_total_flops() == expected


def test_the_vision_side_of_llava_1_5() -> None:
    """23 of 24 layers of CLIP ViT-L/14 at 336 pixels, and the connector of the 7B model: 0.366 and 0.024 TFLOP."""
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    config = LlavaConfig(vision_config=vision, text_config=LlamaConfig())
    assert vision_flops(config) == pytest.approx(0.366e12 + 0.0242e12, rel=5e-3)
