"""A tiny random LLaVA in a folder, a compressor on it, and pictures."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from components.methods.fwd2bot import DoubleForward
from components.model.backbone import Backbone
from tests.components.model.tiny import compressor, load, write_tiny_llava


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llava(tmp_path_factory.mktemp("models") / "tiny-llava")


@pytest.fixture
def backbone(llava_folder: Path) -> Backbone:
    return load(llava_folder)


@pytest.fixture
def model(llava_folder: Path) -> DoubleForward:
    return compressor(llava_folder)


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Eight noisy pictures of different shapes."""
    generator = torch.Generator().manual_seed(2)
    sizes = [(48, 48), (48, 30), (20, 48), (96, 96), (60, 50), (48, 48), (33, 70), (48, 48)]
    noise = [
        torch.randint(0, 256, (h, w, 3), generator=generator, dtype=torch.uint8).numpy()
        for w, h in sizes
    ]
    return [Image.fromarray(pixels) for pixels in noise]
