from pathlib import Path

import pytest

from components.methods.fwd2bot import DoubleForward
from tests.components.model.conftest import llava_folder  # noqa: F401
from tests.components.training.world import build_model


@pytest.fixture
def model(llava_folder: Path) -> DoubleForward:
    return build_model(llava_folder)
