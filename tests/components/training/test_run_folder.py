import errno
import json
from pathlib import Path

import pytest

from components.files.atomic import sha256_of
from components.training import state
from components.training.run_folder import (
    CHECKPOINTS,
    forget_damaged_checkpoints,
    last_checkpoint,
    read_history,
    write_history,
)
from components.training.state import CHECKSUMS_FILE, HistoryRow


def test_a_damaged_checkpoint_is_left_out_and_one_that_cannot_be_read_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (10, 20):
        (tmp_path / f"step-{step:08d}").mkdir()
        (tmp_path / f"step-{step:08d}" / "weights").write_text(str(step))
        checksums = {"weights": sha256_of(tmp_path / f"step-{step:08d}" / "weights")}
        (tmp_path / f"step-{step:08d}" / CHECKSUMS_FILE).write_text(json.dumps(checksums))
    (tmp_path / CHECKPOINTS).touch()

    def fail(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(state, "sha256_of", fail)
        with pytest.raises(OSError, match="Input/output"):
            forget_damaged_checkpoints(tmp_path)
    assert last_checkpoint(tmp_path) == tmp_path / "step-00000020"
    (tmp_path / "step-00000020" / "weights").write_text("cut")
    forget_damaged_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_history_comes_back(tmp_path: Path) -> None:
    rows = [HistoryRow(step=step, metrics={"loss": step / 3}, timings={}) for step in (1, 2)]
    assert read_history(tmp_path / "history.jsonl") == []
    write_history(rows, tmp_path / "history.jsonl")
    assert read_history(tmp_path / "history.jsonl") == rows
