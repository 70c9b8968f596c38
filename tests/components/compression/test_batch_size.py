"""The search for a batch size against machines that are made up, and once on a model."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from components.compression.batch_size import LARGEST, find_batch_size, largest_gain
from components.methods.checkpoint import load_compressor
from tests.components.compression.models import write_models


def machine(per_pass: float, per_picture: float, memory: int, batch_size: int) -> float:
    """Pictures per second, if a pass costs some time, and each picture."""
    if batch_size > memory:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return batch_size / (per_pass + per_picture * batch_size)


@pytest.mark.parametrize(
    ("per_pass", "per_picture", "memory", "expected"),
    [
        (1.0, 0.01, 10**6, 1024),  # 2 x brings 9 % at 512 to 1024, where it ends
        (0.0, 1.0, 10**6, 1),
        (1.0, 1.0, 10**6, 16),  # 16 to 32: 3 %
        (1.0, 0.0, 40, 32),
        (1.0, 0.0, 1, 1),
    ],
)
def test_it_doubles_while_that_pays_and_fits(
    per_pass: float, per_picture: float, memory: int, expected: int
) -> None:
    assert (
        largest_gain(lambda batch_size: machine(per_pass, per_picture, memory, batch_size))
        == expected
    )


def test_memory_for_not_even_one_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        largest_gain(lambda batch_size: machine(1.0, 1.0, 0, batch_size))


def test_on_a_model_it_is_a_power_of_two(tmp_path: Path) -> None:
    trained = write_models(tmp_path)
    model = load_compressor(
        trained, str(trained.parent / "tiny-llava"), torch.device("cpu"), torch.float32
    )
    found = find_batch_size(model, model.backbone.prepare([Image.new("RGB", (48, 48))]))
    assert 1 <= found <= LARGEST
    assert found & (found - 1) == 0
