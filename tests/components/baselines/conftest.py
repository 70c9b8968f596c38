"""The tiny LLaVA of the tests of the model, which the methods are tried on."""

from tests.components.model.conftest import backbone, llava_folder, model, pictures  # noqa: F401
