"""Processes are started and killed for real: a Python program stands for `dvc`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

STAGE = """
import os, subprocess, sys, time
from flows.running.lifetime import die_with_parent
die_with_parent()
child = subprocess.Popen(["sleep", "60"])
print(os.getpid(), child.pid, flush=True)
time.sleep(60)
"""
# The trailing `; true` keeps the shell alive between the two, as zsh and fish do.
DVC = (
    "import subprocess, sys; subprocess.run(['sh', '-c', '\"$0\" stage.py; true', sys.executable])"
)


def is_gone(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def start(
    command: list[str], folder: Path, **variables: str
) -> tuple[subprocess.Popen[str], list[int]]:
    (folder / "stage.py").write_text(STAGE)
    # a make inside `make test` would announce its folder
    ours = ("DVC_STAGE", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {key: value for key, value in os.environ.items() if key not in ours} | variables
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, [int(pid) for pid in process.stdout.readline().split()]


@pytest.mark.parametrize("wrapper", [[], ["sh", "-c", '"$0" "$@"; true']], ids=["dvc", "shell-dvc"])
def test_stage_and_its_children_end_when_dvc_is_killed(tmp_path: Path, wrapper: list[str]) -> None:
    dvc, pids = start([*wrapper, sys.executable, "-c", DVC], tmp_path, DVC_STAGE="train")
    top = psutil.Process(dvc.pid)
    (top.children()[0] if wrapper else top).send_signal(signal.SIGKILL)
    assert all(is_gone(pid) for pid in pids)
    dvc.wait()


def test_stage_ends_when_the_make_above_dvc_is_killed(tmp_path: Path) -> None:
    script = DVC.replace('"', '\\"')
    (tmp_path / "Makefile").write_text(
        f'repro:\n\t@"{sys.executable}" -c "{script.replace("$0", "$$0")}"; true\n'
    )
    make, pids = start(["make"], tmp_path, DVC_STAGE="train")
    make.kill()
    assert all(is_gone(pid) for pid in pids)
    make.wait()


def test_stage_started_by_hand_survives_its_parent(tmp_path: Path) -> None:
    parent, pids = start([sys.executable, "-c", DVC], tmp_path)
    parent.kill()
    assert not is_gone(pids[0], seconds=1.5)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    parent.wait()


def test_stage_whose_dvc_died_before_it_started_refuses_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flows.running import lifetime

    monkeypatch.setenv("DVC_STAGE", "train")
    monkeypatch.setattr(lifetime.psutil.Process, "parents", lambda self: [])
    with pytest.raises(SystemExit, match="already gone"):
        lifetime.die_with_parent()
