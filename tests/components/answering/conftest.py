"""A tiny random LLaVA in a folder, and a compressor on it."""

from pathlib import Path

import pytest

from components.methods.fwd2bot import DoubleForward
from tests.components.model.tiny import compressor, write_tiny_llava


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llava(tmp_path_factory.mktemp("models") / "tiny-llava")


@pytest.fixture
def model(llava_folder: Path) -> DoubleForward:
    return compressor(llava_folder)
