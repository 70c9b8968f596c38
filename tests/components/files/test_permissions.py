import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from components.files.outputs import new_folder
from components.files.permissions import write_by_umask
from components.files.written import LIST


@pytest.mark.parametrize(
    ("umask", "file", "folder"),
    [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)],
)
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, file: int, folder: int) -> None:
    before = os.umask(umask)
    try:
        with new_folder("job", tmp_path / "out") as aside:
            (aside / "model").mkdir(mode=0o700)
            save_file({"weight": torch.zeros(2)}, aside / "model" / "model.safetensors")
        write_by_umask(
            tmp_path / "alone.safetensors", lambda path: save_file({"weight": torch.zeros(2)}, path)
        )
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {
        "out": folder,
        "model": folder,
        "model.safetensors": file,
        LIST: file,
        "alone.safetensors": file,
    }
