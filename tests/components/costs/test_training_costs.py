"""The formulas against PyTorch's own counter, on the step itself.

Attention is eager: the counter sees its products.
"""

from pathlib import Path

import pytest

from components.costs.flop_counter import flop_counter
from components.costs.llava_shapes import SEVEN_B, llava_config
from components.costs.training_costs import connector_flops, tower_flops
from components.methods.method import enable_gradient_checkpointing
from components.training.step import backward_step
from flows.workers.train_worker import flops_of
from tests.components.model.conftest import llava_folder  # noqa: F401
from tests.components.training.test_gradient_caching import BOTH, GROUPS, chunks_of
from tests.components.training.world import build_model


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("turns", ["together", "apart"])
@pytest.mark.parametrize("size", [3, 100])
def test_the_operations_of_a_step_are_what_pytorch_counts(
    llava_folder: Path,
    size: int,
    turns: str,
    is_checkpointed: bool,
) -> None:
    model = build_model(llava_folder)
    model.backbone.vlm.set_attn_implementation("eager")
    if is_checkpointed:
        enable_gradient_checkpointing(model)
    chunks = chunks_of(model, size, turns, GROUPS)
    with flop_counter() as counter:
        backward_step(model, chunks, BOTH)
    assert counter.get_total_flops() == flops_of(model, chunks, is_checkpointed)


def test_the_vision_side_of_llava_1_5() -> None:
    """23 of 24 layers of CLIP ViT-L/14 at 336 pixels, and the connector of the 7B model.

    0.366 and 0.024 TFLOP.
    """
    assert tower_flops(llava_config(SEVEN_B)) == pytest.approx(0.366e12, rel=5e-3)
    assert connector_flops(llava_config(SEVEN_B)) == pytest.approx(0.0242e12, rel=5e-3)
