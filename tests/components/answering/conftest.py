"""A tiny random LLaVA in a folder, and a compressor on it."""

from pathlib import Path

import pytest

from components.methods.double_forward import DoubleForward
from components.model.tiny_llava import build_tiny_llava
from tests.components.model.tiny import TEXTS, TINY, compressor


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llava"
    vlm, processor = build_tiny_llava(TINY, TEXTS, seed=0)
    vlm.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def model(llava_folder: Path) -> DoubleForward:
    return compressor(llava_folder)
