"""The real stage on a micro world: two Ray workers, killed in every way, against a calm run."""

import filecmp
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from ray.cluster_utils import Cluster
from ruamel.yaml import YAML
from safetensors.torch import load_file

from components.methods.checkpoint import QUERIES_FILE, load_compressor
from components.params import load_params
from components.training.training_settings import TrainParams
from flows.train import print_note
from tests.components.model.conftest import llava_folder  # noqa: F401
from tests.components.training.world import write_curated

ROOT = Path(__file__).parents[2]
ON_A_CLUSTER = {"GLOO_SOCKET_IFNAME": "lo", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}
SECONDS_UNTIL_NOTICED = 12  # Ray Train looks for nodes that go every five seconds
MICRO: dict[str, Any] = {
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
def world(tmp_path_factory: pytest.TempPathFactory, llava_folder: Path) -> Path:
    """A working folder: params, curated data, a base model."""
    folder = tmp_path_factory.mktemp("world")
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["train"] |= MICRO
    params["train"]["adapters"]["dropout"] = 0.1
    with (folder / "params.yaml").open("w") as file:
        yaml.dump({name: params[name] for name in ("pictures", "train")}, file)
    write_curated(folder / "curated", num_samples=25, num_validation=6)
    (folder / "base").symlink_to(llava_folder)
    return folder


def start(
    world: Path,
    name: str,
    stderr: int | None = None,
    folder: Path | None = None,
    **environment: str,
) -> subprocess.Popen[bytes]:
    """The stage with the params of `folder`, those of the world if not given."""
    outputs = [world / name / part for part in ("compressor", "metrics", "timings", "state")]
    command = [
        sys.executable,
        "-m",
        "flows.train",
        str(world / "curated"),
        str(world / "base"),
        *map(str, outputs),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(command, cwd=folder or world, env=environment, stderr=stderr)


def write_params(folder: Path, world: Path, **changes: Any) -> Path:
    """A folder with the params of the world but for some of the section `train`."""
    yaml = YAML()
    params = yaml.load((world / "params.yaml").read_text(encoding="utf-8"))
    params["train"] |= changes
    folder.mkdir()
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(params, file)
    return folder


@pytest.fixture(scope="module")
def undisturbed(world: Path) -> Path:
    assert start(world, "undisturbed").wait() == 0
    return world / "undisturbed"


def wait_until(is_true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not is_true():
        assert process.poll() is None, "the stage ended too early"
        time.sleep(0.05)


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    children = process.children(recursive=True)
    return [
        child for child in children if any("RayTrainWorker" in word for word in child.cmdline())
    ]


def checkpoints(run: Path) -> set[str]:
    return {path.parent.name for path in run.glob("state/*/step-*/progress.json")}


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_same_files(left: Path, right: Path) -> None:
    assert files_of(left) == files_of(right)
    assert filecmp.cmpfiles(left, right, files_of(left), shallow=False)[1:] == ([], [])


@pytest.mark.slow
def test_the_output_is_a_compressor_with_metrics(undisturbed: Path, world: Path) -> None:
    assert {"README.md", "config.json", "summary_queries.safetensors"} < set(
        files_of(undisturbed / "compressor")
    )
    model = load_compressor(
        undisturbed / "compressor", str(world / "base"), torch.device("cpu"), torch.float32
    )
    assert model.num_summary_tokens == 4
    metrics = YAML(typ="safe").load((undisturbed / "metrics" / "metrics.json").read_text())
    assert metrics["step"] == 60
    assert {"autoregressive_loss", "contrastive_loss", "logit_scale", "gradient_norm"} < metrics[
        "train"
    ].keys()
    assert {"short_answer_accuracy", "recall_at_1_text_to_image"} < metrics["validation"].keys()
    losses = (
        (undisturbed / "metrics" / "plots" / "metrics" / "train" / "loss.tsv")
        .read_text()
        .splitlines()
    )
    assert [line.split("\t")[0] for line in losses[1:]] == [str(step) for step in range(5, 61, 5)]
    assert "samples_per_second" in (undisturbed / "timings" / "metrics.json").read_text()
    assert files_of(undisturbed / "state") == [".fwd2bot-hashes.json", "lock"]


@pytest.mark.slow
def test_a_run_killed_in_every_way_ends_like_an_undisturbed_one(
    undisturbed: Path, world: Path
) -> None:
    run = world / "disturbed"
    stage = start(world, run.name)
    wait_until(lambda: bool(checkpoints(run)), stage)
    stage.send_signal(signal.SIGTERM)
    assert stage.wait() != 0
    assert not (run / "compressor").exists()

    stage = start(world, run.name)
    before = checkpoints(run)
    wait_until(lambda: bool(checkpoints(run) - before), stage)
    workers_of(psutil.Process(stage.pid))[-1].kill()
    before = checkpoints(run)
    wait_until(lambda: bool(checkpoints(run) - before), stage)
    workers = workers_of(psutil.Process(stage.pid))
    stage.kill()
    stage.wait()
    assert not (run / "compressor").exists()
    assert not psutil.wait_procs(workers, timeout=60)[1], "an orphan lives on"

    (newest,) = sorted(run.glob("state/*/step-*/weights.safetensors"))[-1:]
    os.truncate(newest, newest.stat().st_size // 2)
    assert start(world, run.name).wait() == 0
    assert_same_files(run / "compressor", undisturbed / "compressor")
    assert_same_files(run / "metrics", undisturbed / "metrics")


def announce_loss(address: str, node_id: str) -> None:
    """What a cloud's notice of preemption becomes in Ray."""
    command = [
        "ray",
        "drain-node",
        "--address",
        address,
        "--node-id",
        node_id,
        "--deadline-remaining-seconds",
        "60",
    ]
    reason = [
        "--reason",
        "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message",
        "spot capacity is gone",
    ]
    subprocess.run([str(Path(sys.executable).with_name("ray")), *command[1:], *reason], check=True)


@pytest.mark.slow
def test_a_run_outlives_the_loss_of_a_node(undisturbed: Path, world: Path) -> None:
    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        lost, run = cluster.add_node(**node), world / "lost-node"
        stage = start(world, run.name, RAY_ADDRESS=cluster.address, **ON_A_CLUSTER)
        wait_until(lambda: bool(checkpoints(run)), stage)
        workers = workers_of(psutil.Process())
        for worker in workers:
            worker.suspend()  # these steps take a tenth of a second
        announce_loss(cluster.address, lost.node_id)
        time.sleep(SECONDS_UNTIL_NOTICED)
        for worker in workers:
            worker.resume()
        # earlier than its time
        wait_until(lambda: any(name.endswith("5") for name in checkpoints(run)), stage)
        cluster.remove_node(lost, allow_graceful=False)
        cluster.add_node(**node)  # as a cluster's autoscaler would
        assert stage.wait() == 0
    finally:
        cluster.shutdown()
    assert_same_files(run / "compressor", undisturbed / "compressor")
    assert_same_files(run / "metrics", undisturbed / "metrics")


@pytest.mark.slow
def test_a_full_disk_ends_a_run_with_the_reason_and_harms_no_checkpoint(
    undisturbed: Path, world: Path, tmp_path: Path
) -> None:
    run = world / "full-disk"
    (run / "state").mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(run / "state")]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        once = write_params(tmp_path / "once", world, max_failures=0)
        stage = start(world, run.name, stderr=subprocess.PIPE, folder=once)
        said = stage.communicate()[1].decode()
        assert stage.returncode != 0
        assert f"the disk under {run / 'state'} is full" in said.splitlines()[-1]
        assert not (run / "compressor").exists()
        assert checkpoints(run)
        subprocess.run([*mount[:4], "remount,size=100m", *mount[5:]], check=True)
        assert start(world, run.name).wait() == 0
    finally:
        subprocess.run(["umount", str(run / "state")], check=True)
    assert_same_files(run / "compressor", undisturbed / "compressor")


@pytest.mark.slow
def test_a_sharded_run_from_stored_features_goes_on_as_an_ordinary_one(
    world: Path, tmp_path: Path
) -> None:
    """Equal to rounding: sums have another order, and vision features come from other batches."""
    adapters = load_params("train", TrainParams, world / "params.yaml").adapters.model_dump(
        mode="json"
    )
    loop = MICRO["loop"] | {
        "num_steps": 20,
        "validate_every_steps": 10,
        "checkpoint_every_steps": 5,
    }
    common = {"adapters": adapters | {"dropout": 0.0}, "samples_per_chunk": 1, "loop": loop}
    sharded = write_params(
        tmp_path / "sharded", world, **common, parallelism="fsdp", feature_cache="features"
    )
    whole = write_params(tmp_path / "whole", world, **common)
    stage, run = start(world, "sharded", folder=sharded), world / "sharded"
    wait_until(lambda: bool(checkpoints(run)), stage)
    stage.send_signal(signal.SIGTERM)
    assert stage.wait() != 0
    assert checkpoints(run)
    assert not (run / "compressor").exists()
    assert start(world, "sharded", folder=whole).wait() == 0
    assert start(world, "whole", folder=whole).wait() == 0
    found, expected = (
        torch.cat(
            [
                tensor.flatten()
                for tensor in load_file(world / name / "compressor" / QUERIES_FILE).values()
            ]
        )
        for name in ("sharded", "whole")
    )
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    loss = "metrics/plots/metrics/train/loss.tsv"
    lines = [(world / name / loss).read_text().splitlines()[1:] for name in ("sharded", "whole")]
    curves = [[float(line.split("\t")[1]) for line in of_run] for of_run in lines]
    assert curves[0] == pytest.approx(curves[1], rel=1e-2)
    assert list((sharded / "features").glob("*/*/*.safetensors"))


def test_a_note_of_a_worker_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = print_note(tmp_path / "notes.txt", "")
    for note in ("half", "half", "done"):
        (tmp_path / "notes.txt").write_text(note)
        shown = print_note(tmp_path / "notes.txt", shown)
    assert capsys.readouterr().out == "train: half\ntrain: done\n"
