"""A tiny random LLaVA and a compressor on it, shared by the tests that need a model."""

from pathlib import Path

import pytest
import torch

from components.methods.fwd2bot import DoubleForward
from components.model.backbone import Backbone
from tests.components.model.tiny import compressor, load, write_tiny_llava


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llava(tmp_path_factory.mktemp("models") / "tiny-llava")


@pytest.fixture(scope="session")
def base(base_folder: Path) -> Backbone:
    return load(base_folder).eval()


@pytest.fixture(scope="session")
def model(base_folder: Path) -> DoubleForward:
    return compressor(base_folder)


@pytest.fixture(scope="session")
def pixel_values() -> torch.Tensor:
    """Five pictures, (5, 3, 48, 48)."""
    return torch.randn(5, 3, 48, 48, generator=torch.Generator().manual_seed(3))
