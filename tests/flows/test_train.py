"""The real stage on a micro world: two Ray workers, killed in every way, against a calm run.

What is killed is the command, with its Ray; calm runs are the same function without Ray.
"""

import filecmp
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from ray.cluster_utils import Cluster
from ruamel.yaml import YAML
from safetensors.torch import load_file

from components.methods.catalogue import choose_method
from components.methods.checkpoint import QUERIES_FILE, load_compressor
from components.params import load_params
from components.training.run_folder import HISTORY, STOP
from components.training.training_settings import TrainParams
from flows.train import print_note, train
from tests.components.model.conftest import llava_folder  # noqa: F401
from tests.components.training.world import write_curated
from tests.flows.training_forks import training_forks  # noqa: F401

ROOT = Path(__file__).parents[2]
ON_A_CLUSTER = {"GLOO_SOCKET_IFNAME": "lo", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}
SECONDS_UNTIL_NOTICED = 12  # Ray Train looks for nodes that go every five seconds
MICRO: dict[str, Any] = {
    "autoregressive_batch_size": 4,
    "contrastive_batch_size": 4,
    "loop": {
        "num_steps": 48,
        "log_every_steps": 3,
        "validate_every_steps": 16,
        "checkpoint_every_steps": 6,
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


def places(world: Path, name: str) -> list[Path]:
    """Compressor, metrics, timings and state of a run."""
    return [world / name / part for part in ("compressor", "metrics", "timings", "state")]


def start(run: Path, folder: Path | None = None, **environment: str) -> subprocess.Popen[bytes]:
    """The command with the params of `folder`, those of the world if not given; errors to a log."""
    world = run.parent
    command = [sys.executable, "-m", "flows.train", str(world / "curated"), str(world / "base")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    with log_of(run).open("wb") as log:
        return subprocess.Popen(
            [*command, *map(str, places(world, run.name))],
            cwd=folder or world,
            env=environment,
            stderr=log,
        )


def log_of(run: Path) -> Path:
    return run.with_name(f"{run.name}.log")


def train_here(world: Path, name: str, folder: Path) -> Path:
    """Train with the params of `folder`; returns the run."""
    params = load_params("train", TrainParams, folder / "params.yaml")
    method = choose_method(params.method)
    train(params, method, world / "curated", str(world / "base"), *places(world, name))
    return world / name


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
def undisturbed(world: Path, training_forks: None) -> Path:
    return train_here(world, "undisturbed", world)


def wait_until(is_true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not is_true():
        assert process.poll() is None, "the stage ended too early"
        time.sleep(0.05)


def wait_for_checkpoint(run: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until one is there that was not there before."""
    before = checkpoints(run)
    wait_until(lambda: bool(checkpoints(run) - before), process)


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
    assert metrics["step"] == 48
    assert {"autoregressive_loss", "contrastive_loss", "logit_scale", "gradient_norm"} < metrics[
        "train"
    ].keys()
    assert {"short_answer_accuracy", "recall_at_1_text_to_image"} < metrics["validation"].keys()
    losses = (
        (undisturbed / "metrics" / "plots" / "metrics" / "train" / "loss.tsv")
        .read_text()
        .splitlines()
    )
    assert [line.split("\t")[0] for line in losses[1:]] == [str(step) for step in range(3, 49, 3)]
    assert "samples_per_second" in (undisturbed / "timings" / "metrics.json").read_text()
    assert files_of(undisturbed / "state") == [".fwd2bot-hashes.json", "lock"]


@contextmanager
def own_disk(folder: Path) -> Iterator[bool]:
    """Mount a small file system on a folder; False without the right to."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        cluster.add_node(**NODE)
        yield cluster
    finally:
        cluster.shutdown()


def announce_loss(address: str, node_id: str) -> None:
    """What a cloud's notice of preemption becomes in Ray."""
    command = [
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
    subprocess.run([str(Path(sys.executable).with_name("ray")), *command, *reason], check=True)


def lose_a_node(cluster: Cluster, run: Path, stage: subprocess.Popen[bytes]) -> None:
    """Announce the loss, wait for a checkpoint before its time, take the node, bring another."""
    (lost,) = cluster.worker_nodes
    workers = workers_of(psutil.Process())
    for worker in workers:
        worker.suspend()  # these steps take a tenth of a second
    announce_loss(cluster.address, lost.node_id)
    time.sleep(SECONDS_UNTIL_NOTICED)
    for worker in workers:
        worker.resume()

    # a step at which there is a line of the log, and no checkpoint
    def is_early(name: str) -> bool:
        return int(name.removeprefix("step-")) % MICRO["loop"]["checkpoint_every_steps"] != 0

    wait_until(lambda: any(map(is_early, checkpoints(run))), stage)
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(**NODE)  # as a cluster's autoscaler would


def fill(disk: Path) -> Path:
    """Fill a disk to its last byte; returns the file that does."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    return ballast


@pytest.mark.slow
def test_a_run_killed_in_every_way_ends_like_an_undisturbed_one(
    undisturbed: Path, world: Path, tmp_path: Path
) -> None:
    run = world / "disturbed"
    once = write_params(tmp_path / "once", world, max_failures=1)  # the loss of the node
    with own_disk(run / "state") as is_own, two_nodes() as cluster:
        on_cluster = {"RAY_ADDRESS": cluster.address, **ON_A_CLUSTER}

        # A node is lost, after a notice; then the disk is full.
        stage = start(run, once, **on_cluster)
        wait_for_checkpoint(run, stage)
        lose_a_node(cluster, run, stage)
        wait_for_checkpoint(run, stage)
        if is_own:
            whole, ballast = checkpoints(run), fill(run / "state")
            assert stage.wait() != 0
            assert (
                f"the disk under {run / 'state'} is full"
                in log_of(run).read_text().splitlines()[-1]
            )
            assert not (run / "compressor").exists()
            assert whole & checkpoints(run)
            ballast.unlink()
            stage = start(run, **on_cluster)
            wait_for_checkpoint(run, stage)

        # A worker is killed; then SIGTERM asks for an end.
        workers_of(psutil.Process())[-1].kill()
        wait_for_checkpoint(run, stage)
        stage.send_signal(signal.SIGTERM)
        assert stage.wait() != 0
        assert "stopped on request" in log_of(run).read_text().splitlines()[-1]
        assert not (run / "compressor").exists()

        # The command itself is killed, with the Ray that it has started.
        stage = start(run)
        wait_for_checkpoint(run, stage)
        workers = workers_of(psutil.Process(stage.pid))
        stage.kill()
        stage.wait()
        assert workers
        assert not (run / "compressor").exists()
        assert not psutil.wait_procs(workers, timeout=60)[1], "an orphan lives on"

        # The newest checkpoint is damaged.
        (newest,) = sorted(run.glob("state/*/step-*/weights.safetensors"))[-1:]
        os.truncate(newest, newest.stat().st_size // 2)
        assert start(run, **on_cluster).wait() == 0
    assert_same_files(run / "compressor", undisturbed / "compressor")
    assert_same_files(run / "metrics", undisturbed / "metrics")
    if not is_own:
        pytest.skip("all but the full disk: no right to mount a small file system")


def stop_at_a_checkpoint(run: Path) -> None:
    """Ask a run to stop when it has one, as SIGTERM does."""
    while not checkpoints(run):
        time.sleep(0.05)
    for state in run.glob(f"state/*/{HISTORY}"):
        state.with_name(STOP).touch()


@pytest.mark.slow
def test_a_sharded_run_from_stored_features_goes_on_as_an_ordinary_one(
    world: Path, tmp_path: Path, training_forks: None
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
    features = tmp_path / "features"
    sharded = write_params(
        tmp_path / "sharded", world, **common, parallelism="fsdp", feature_cache=str(features)
    )
    whole = write_params(tmp_path / "whole", world, **common)
    run = world / "sharded"
    stopper = threading.Thread(target=stop_at_a_checkpoint, args=(run,), daemon=True)
    stopper.start()
    with pytest.raises(SystemExit, match="stopped on request"):
        train_here(world, run.name, sharded)
    stopper.join()
    assert checkpoints(run)
    assert not (run / "compressor").exists()
    train_here(world, run.name, whole)
    train_here(world, "whole", whole)
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
    assert list(features.glob("*/*/*.safetensors"))


def test_a_note_of_a_worker_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = print_note(tmp_path / "notes.txt", "")
    for note in ("half", "half", "done"):
        (tmp_path / "notes.txt").write_text(note)
        shown = print_note(tmp_path / "notes.txt", shown)
    assert capsys.readouterr().out == "train: half\ntrain: done\n"
