"""The real stage on a micro world: two Ray workers, killed in every way, against a run that nobody disturbs."""

import filecmp
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from pydantic import ValidationError
from ruamel.yaml import YAML

from components.model.checkpoint import load_compressor
from components.params import load_params
from components.training.settings import TrainParams
from tests.components.model.conftest import llava_folder  # noqa: F401
from tests.components.training.world import write_curated

ROOT = Path(__file__).parents[2]
MICRO = {
    "autoregressive_batch_size": 4,
    "contrastive_batch_size": 4,
    "loop": {
        "num_steps": 60,
        "log_every_steps": 5,
        "validate_every_steps": 20,
        "checkpoint_every_steps": 10,
        "max_skipped_steps": 0,
    },
    "validation": {"num_pictures": 6, "num_questions": 6, "batch_size": 2, "max_new_tokens": 3},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, llava_folder: Path) -> Path:  # noqa: F811
    """A working folder: params, curated data, a base model."""
    folder = tmp_path_factory.mktemp("world")
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["train"] |= MICRO
    params["train"]["adapters"]["dropout"] = 0.1
    with (folder / "params.yaml").open("w") as file:
        yaml.dump({"train": params["train"]}, file)
    write_curated(folder / "curated", num_samples=25, num_validation=6)
    (folder / "base").symlink_to(llava_folder)
    return folder


def start(world: Path, name: str) -> subprocess.Popen[bytes]:
    outputs = [world / name / part for part in ("compressor", "metrics", "timings", "state")]
    command = [sys.executable, "-m", "flows.train", "curated", "base", *map(str, outputs)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=world, env=environment)


@pytest.fixture(scope="module")
def undisturbed(world: Path) -> Path:
    assert start(world, "undisturbed").wait() == 0
    return world / "undisturbed"


def wait_until(is_true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not is_true():
        assert process.poll() is None, "the stage ended too early"
        time.sleep(0.05)


def workers_of(stage: subprocess.Popen[bytes]) -> list[psutil.Process]:
    children = psutil.Process(stage.pid).children(recursive=True)
    return [child for child in children if any("RayTrainWorker" in word for word in child.cmdline())]


def checkpoints(run: Path) -> set[str]:
    return {path.parent.name for path in run.glob("state/*/step-*/progress.json")}


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_same_files(left: Path, right: Path) -> None:
    assert files_of(left) == files_of(right)
    assert filecmp.cmpfiles(left, right, files_of(left), shallow=False)[1:] == ([], [])


@pytest.mark.slow
def test_the_output_is_a_compressor_with_metrics(undisturbed: Path, world: Path) -> None:
    assert {"README.md", "config.json", "summary_queries.safetensors"} < set(files_of(undisturbed / "compressor"))
    model = load_compressor(undisturbed / "compressor", str(world / "base"), torch.device("cpu"), torch.float32)
    assert model.num_summary_tokens == 4
    metrics = YAML(typ="safe").load((undisturbed / "metrics" / "metrics.json").read_text())
    assert metrics["step"] == 60
    assert {"autoregressive_loss", "contrastive_loss", "logit_scale", "gradient_norm"} < metrics["train"].keys()
    assert {"short_answer_accuracy", "recall_at_1_text_to_image"} < metrics["validation"].keys()
    losses = (undisturbed / "metrics" / "plots" / "metrics" / "train" / "loss.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in losses[1:]] == [str(step) for step in range(5, 61, 5)]
    assert "samples_per_second" in (undisturbed / "timings" / "metrics.json").read_text()
    assert files_of(undisturbed / "state") == ["lock"]


@pytest.mark.slow
def test_a_run_killed_in_every_way_ends_like_an_undisturbed_one(undisturbed: Path, world: Path) -> None:
    run = world / "disturbed"
    stage = start(world, run.name)
    wait_until(lambda: bool(checkpoints(run)), stage)
    stage.send_signal(signal.SIGTERM)
    assert stage.wait() != 0
    assert not (run / "compressor").exists()

    stage = start(world, run.name)
    before = checkpoints(run)
    wait_until(lambda: bool(checkpoints(run) - before), stage)
    workers_of(stage)[-1].kill()
    before = checkpoints(run)
    wait_until(lambda: bool(checkpoints(run) - before), stage)
    workers = workers_of(stage)
    stage.kill()
    stage.wait()
    assert not (run / "compressor").exists()
    assert not psutil.wait_procs(workers, timeout=60)[1], "an orphan lives on"

    (newest,) = sorted(run.glob("state/*/step-*/weights.safetensors"))[-1:]
    os.truncate(newest, newest.stat().st_size // 2)
    assert start(world, run.name).wait() == 0
    assert_same_files(run / "compressor", undisturbed / "compressor")
    assert_same_files(run / "metrics", undisturbed / "metrics")


@pytest.mark.parametrize("section", [{"num_workers": 3}, {"num_workers": 2, "contrastive_batch_size": 33}])
def test_batches_that_workers_cannot_share_are_refused(section: dict[str, int]) -> None:
    params = load_params("train", TrainParams, ROOT / "params.yaml")
    with pytest.raises(ValidationError, match="is not a multiple of num_workers"):
        TrainParams.model_validate(params.model_dump() | section)
