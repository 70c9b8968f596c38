"""The formula against the bytes that autograd really keeps."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.costs.training_costs import model_shape
from components.costs.training_memory import activation_bytes
from components.methods.fwd2bot import DoubleForward
from components.training.collate import TrainBatch
from components.training.forward import step_losses
from flows.workers.train_worker import chunk_shape
from tests.components.model.conftest import llava_folder  # noqa: F401
from tests.components.model.tiny import COMPRESSOR, compressor
from tests.components.training.test_gradient_caching import BOTH, chunks_of


def saved_bytes(model: DoubleForward, chunk: TrainBatch) -> int:
    """Storage that the graph of both losses holds, each piece once, without the model's own."""
    own = {
        tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
    }
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = step_losses(model, chunk, BOTH)
    total = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    sum(losses).backward()
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("turns", ["together", "apart"])
def test_saved_activations_are_within_ten_percent_of_the_formula(
    llava_folder: Path,
    turns: str,
    dtype: torch.dtype,
) -> None:
    adapters = COMPRESSOR.adapters.model_copy(update={"dropout": 0.0})
    model = compressor(
        llava_folder, dtype, COMPRESSOR.model_copy(update={"adapters": adapters})
    ).train()
    (chunk,) = chunks_of(model, 100, turns)
    shape = model_shape(model.backbone.vlm.config, model.params.adapters)
    expected = activation_bytes(
        shape, chunk_shape(model, chunk, model.backbone.num_image_tokens), dtype.itemsize
    )
    assert saved_bytes(model, chunk) == pytest.approx(expected, rel=0.1)
