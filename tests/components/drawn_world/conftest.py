"""The tiny LLaVA of the tests of the model."""

from tests.components.model.conftest import llava_folder  # noqa: F401
