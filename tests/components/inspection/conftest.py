"""The tiny models of the tests of `model`."""

from tests.components.model.conftest import backbone, llava_folder, model, pictures

__all__ = ["backbone", "llava_folder", "model", "pictures"]
