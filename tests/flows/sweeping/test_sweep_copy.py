"""Sweeps over a pipeline of one small stage: failures, kills, Ctrl-C, and what then runs again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.sweeping import sweep_copy
from flows.sweeping.sweep_copy import ATTEMPT, stage_seconds
from tests.repository import ROOT, environment, run

FILES = {
    "params.yaml": "train:\n  seed: 0\n  steps: 1\n  budgets: []\n",
    "dvc.yaml": """
stages:
  evaluate:
    cmd: python work.py
    deps: [work.py]
    params: [train]
    outs:
      - results/metrics.json: {cache: false}
""",
    "work.py": """
import json, os, sys, time
from pathlib import Path
from ruamel.yaml import YAML
from flows.running.lifetime import die_with_parent

die_with_parent()
train = YAML(typ="safe").load(Path("params.yaml").read_text())["train"]
print("at work", flush=True)
if str(train["seed"]) == os.environ.get("BROKEN"):
    sys.exit("this seed does not work")
time.sleep(float(os.environ.get("PAUSE", 0)))
Path("results").mkdir(exist_ok=True)
Path("results/metrics.json").write_text(json.dumps({"score": train["seed"] + train["steps"] / 10}))
""",
    "sweeps/toy.yaml": """
stage: evaluate
seeds: [1, 2]
params: {train.budgets: "[1,2]"}
runs: {run: {train.steps: 5}}
first_seed_only: []
metrics: {score: score}
smoke: null
""",
}


def call(folder: Path, *command: str, expected: int = 0, **changes: str) -> str:
    return run(folder, *command, expected=expected, PYTHONPATH=str(ROOT), **changes)


def sweep(folder: Path, *command: str, expected: int = 0, **changes: str) -> str:
    return call(folder, sys.executable, "-m", "flows.sweep", *command, expected=expected, **changes)


def heed_interrupts() -> None:
    """Heed SIGINT, which the background of a shell is told to ignore, and its children with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(folder: Path) -> subprocess.Popen[str]:
    """A sweep whose stage is at work, for long."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.sweep", "run", "sweeps/toy.yaml"],
        cwd=folder,
        env=environment(PAUSE="300", PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    assert process.stdout is not None
    assert any("at work" in line for line in process.stdout)
    return process


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def is_untouched(folder: Path) -> bool:
    """On its branch, and as it was committed."""
    return call(folder, "git", "status", "--porcelain") == "" and "main" in call(
        folder, "git", "branch", "--show-current"
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return commit(tmp_path)


def commit(folder: Path) -> Path:
    """Make a folder a repository of git and DVC."""
    call(folder, "git", "init", "--quiet", "--initial-branch", "main")
    call(folder, "dvc", "init", "--quiet")
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "--quiet", "-m", "start")
    return folder


@pytest.mark.slow
def test_only_what_failed_or_has_other_values_runs_again(repository: Path) -> None:
    first = sweep(repository, "run", "sweeps/toy.yaml", expected=1, BROKEN="2")
    assert "this seed does not work" in first
    assert "1 failed: toy-run-2" in first
    assert "| run | 1 | 1.500 |" in first
    assert "at work" in (repository / ".dvc/tmp/sweep-logs/toy-run-2.log").read_text()

    # finished experiments count from any commit
    (repository / "notes.md").write_text("the next commit")
    call(repository, "git", "add", "-A")
    call(repository, "git", "commit", "--quiet", "-m", "next")
    second = sweep(repository, "run", "sweeps/toy.yaml")
    assert "1 of 2 experiments are there already" in second
    assert second.count("at work") == 1
    assert "| run | 2 | 2.000 (1.500 … 2.500) |" in second
    assert is_untouched(repository)
    assert "toy-run-1" in call(repository, "dvc", "exp", "list", "--all-commits")

    third = sweep(repository, "run", "sweeps/toy.yaml")
    assert "2 of 2 experiments are there already" in third
    assert "at work" not in third

    changed = (
        (repository / "sweeps/toy.yaml").read_text().replace("train.steps: 5", "train.steps: 6")
    )
    (repository / "sweeps/toy.yaml").write_text(changed)
    fourth = sweep(repository, "run", "sweeps/toy.yaml")
    assert "0 of 2 experiments are there already" in fourth
    assert "| run | 2 | 2.100 (1.600 … 2.600) |" in fourth


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "Ctrl-C"])
def test_an_interrupted_sweep_leaves_nothing_running_and_goes_on(
    repository: Path, how: signal.Signals
) -> None:
    process = start(repository)
    others = family(process)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does
    else:
        process.send_signal(how)
    said, _ = process.communicate(timeout=60)
    assert ("interrupted" in said) == (how == signal.SIGINT)
    _, alive = psutil.wait_procs(others, timeout=20)
    assert not alive
    assert is_untouched(repository)
    assert "0 of 2 experiments are there already" in (
        again := sweep(repository, "run", "sweeps/toy.yaml")
    )
    assert "| run | 2 |" in again


@pytest.mark.slow
def test_a_second_sweep_waits_for_nobody(repository: Path) -> None:
    process = start(repository)
    assert "another sweep is at work" in sweep(repository, "run", "sweeps/toy.yaml", expected=1)
    process.kill()
    process.communicate()


def test_seconds_of_a_stage_are_those_of_all_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_copy, "LOGS", tmp_path)
    lines = [
        f"0.0 {ATTEMPT}",
        "1.0 Running stage 'train':",
        "  5.0 step 10",
        f"0.0 {ATTEMPT}",
        "2.0",
        "2.5 hm",
    ]
    lines += ["3.0 Running stage 'train':", "13.5 Running stage 'evaluate':", "20.5 done"]
    (tmp_path / "it.log").write_text("\n".join(lines))
    assert stage_seconds("it") == {"train": 4.0 + 10.5, "evaluate": 7.0}
    assert stage_seconds("another") == {}
