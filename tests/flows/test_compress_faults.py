"""`compress` on three nodes, of which workers, a whole node and twice the driver are killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from ray.cluster_utils import Cluster
from ruamel.yaml import YAML

from components.params import load_params
from components.store.store_reader import StoreReader
from flows.compress import compress
from flows.workers.compress_worker import CompressParams
from tests.components.compression.models import write_models
from tests.flows.in_this_process import in_this_process  # noqa: F401
from tests.flows.test_compress import PARAMS, contents

ROOT = Path(__file__).parents[2]
NUM_FILES, ROWS_PER_FILE, NUM_BROKEN = 40, 20, 40
NUM_PICTURES = NUM_FILES * ROWS_PER_FILE
HOLDS_THE_MODEL, DECODES = "ImageCompressor", "decode_shard"  # in the title of a worker
CHAOS = random.Random(0)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three raylets on the loopback interface, four CPUs each for the scheduler."""
    found = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False}
    )
    for _ in range(2):
        found.add_node(num_cpus=4)
    yield found
    found.shutdown()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Pictures, broken ones among them, a compressor and params."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(NUM_PICTURES):
        path = tmp_path / "pictures" / f"{number:04d}.png"
        Image.fromarray(rng.integers(0, 255, (20 + number % 30, 40, 3), dtype=np.uint8)).save(
            path, compress_level=0
        )
        if number % (NUM_PICTURES // NUM_BROKEN) == 7:
            path.write_bytes(path.read_bytes()[:200])
    write_models(tmp_path / "models")
    changes = {
        "decoders_per_worker": 1,
        "rows_per_shard": ROWS_PER_FILE,
        "rows_per_row_group": ROWS_PER_FILE,
        "batch_size": 8,
        "max_restarts": 20,
    }
    params = PARAMS.model_copy(update=changes).model_dump(mode="json")
    YAML().dump({"compress": params}, tmp_path / "params.yaml")
    return tmp_path


def start(place: Path, cluster: Cluster) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flows.compress", "pictures", "models/compressor", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": cluster.address}
    with (place / "out.log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=place, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def wait_for(driver: subprocess.Popen[bytes], is_reached: Callable[[], bool], log: Path) -> None:
    while not is_reached():
        assert driver.poll() is None, f"the run ended too early:\n{log.read_text()[-3000:]}"
        time.sleep(0.05)


def num_finished(place: Path) -> int:
    return len(list(place.glob("out.partial/*/done/*")))


def kill_a_worker(cluster: Cluster, work: str) -> None:
    """SIGKILL to one of the processes with this work, as soon as there is one."""
    while not (workers := workers_with(cluster, work)):
        time.sleep(0.05)
    CHAOS.choice(workers).kill()


def workers_with(cluster: Cluster, work: str) -> list[psutil.Process]:
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]
    workers = []
    for raylet in raylets:
        for child in psutil.Process(raylet).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if work in " ".join(child.cmdline()):
                    workers.append(child)
    return workers


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_lost_or_stored_twice_whoever_is_killed(
    cluster: Cluster, place: Path, in_this_process: None
) -> None:
    log, reached = place / "out.log", 0

    def further(driver: subprocess.Popen[bytes], shards: int) -> None:
        nonlocal reached
        reached = num_finished(place) + shards
        wait_for(driver, lambda: num_finished(place) >= reached, log)
        assert num_finished(place) < NUM_FILES, "whatever is killed now is killed too late"

    driver = start(place, cluster)
    for work in (HOLDS_THE_MODEL, DECODES):
        further(driver, 4)
        kill_a_worker(cluster, work)
    further(driver, 4)
    node = sorted(cluster.worker_nodes, key=lambda node: node.unique_id)[0]
    # SIGKILL to the raylet and all that belongs to the node
    cluster.remove_node(node, allow_graceful=False)
    for work in (DECODES, HOLDS_THE_MODEL):
        further(driver, 4)
        driver.send_signal(signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL
        assert not (place / "out").exists()
        driver = start(place, cluster)
        further(driver, 3)
        kill_a_worker(cluster, work)
    assert driver.wait(600) == 0, log.read_text()[-3000:]

    params = load_params("compress", CompressParams, place / "params.yaml")
    models, undisturbed = place / "models/compressor", place / "undisturbed"
    compress(params, str(place / "pictures"), models, undisturbed, None)
    assert contents(place / "out") == contents(undisturbed)
    store = StoreReader.open(place / "out")
    rejected = [
        reject["image_id"]
        for reject in json.loads((place / "out" / "_rejects.json").read_text())["rejects"]
    ]
    assert len(rejected) == NUM_BROKEN
    assert sorted([*store.ids, *rejected]) == [
        f"{number:04d}.png" for number in range(NUM_PICTURES)
    ]
