"""The hash of weights is that of the weights that are loaded."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from components.model.backbone import weights_sha256


def test_weights_sha256_tensor_in_two_files_raises(tmp_path: Path) -> None:
    save_file({"layer": torch.ones(2)}, tmp_path / "model.safetensors")
    save_file({"layer": torch.zeros(2)}, tmp_path / "original.safetensors")
    with pytest.raises(
        ValueError, match=r"original\.safetensors: holds layer, and so does model\.safetensors"
    ):
        weights_sha256(tmp_path)
