"""A flow as a job of a cluster that checks tokens writes the store of a local run."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from PIL import Image

from components.params import load_params
from flows.compress import compress
from flows.workers.compress_worker import CompressParams
from tests.components.compression.models import write_models
from tests.flows.in_this_process import in_this_process  # noqa: F401

ROOT = Path(__file__).parents[3]
RAY = Path(sys.executable).with_name("ray")
TOKEN = "0123456789abcdef0123456789abcdef"
START_SECONDS, STOP_SECONDS, SUBMIT_SECONDS = 240, 5, 540
PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # minutes on a machine that others use


class Cluster(NamedTuple):
    """A head with a job server on the loopback interface."""

    address: str  # of the job server
    environment: dict[str, str]  # of whoever may use it


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # short: sockets have short paths
        token, ports = Path(folder) / "token", dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        token.write_text(TOKEN)
        environment = client_environment() | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
        }
        options = [f"--{name}={port}" for name, port in ports.items()]
        options += ["--dashboard-host=127.0.0.1", "--num-cpus=8", "--object-store-memory=200000000"]
        command = [RAY, "start", "--head", "--block", f"--temp-dir={folder}/r", *options]
        with (Path(folder) / "log").open("w") as log:
            head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        servers = [f"http://127.0.0.1:{ports[name]}" for name in PORTS[1:3]]
        cluster = Cluster(servers[0], environment)
        try:
            wait_until_ready(
                head, [f"{servers[0]}/api/jobs/", f"{servers[1]}/api/local_raylet_healthz"]
            )
            yield cluster
        finally:
            stop(head)


def client_environment() -> dict[str, str]:
    """Nothing of Ray but loopback: no token, no cluster; programs of this environment first."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "GLOO_"))
    }
    path = f"{RAY.parent}{os.pathsep}{os.environ['PATH']}"
    settings = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }
    # workers with the niceness of others: a busy machine starves them
    return {**kept, "PATH": path, **settings}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def wait_until_ready(head: subprocess.Popen[bytes], addresses: list[str]) -> None:
    """Until the job server answers, and the agent that starts jobs."""
    until = time.monotonic() + START_SECONDS
    while any(status_of(address, TOKEN) != 200 for address in addresses):
        assert head.poll() is None, "the head ended"
        assert time.monotonic() < until, "the head does not answer"
        time.sleep(0.2)


def status_of(address: str, token: str | None) -> int | None:
    """The answer to a request with this token; None if there is none yet."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address, headers=headers), timeout=30
        ) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def stop(head: subprocess.Popen[bytes]) -> None:
    """End the head and all that it started; `ray stop` would end every Ray of the machine."""
    family = (
        [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        if head.poll() is None
        else []
    )
    for process in family:
        process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for process in alive:
        process.kill()


def submit(
    cluster: Cluster, environment: dict[str, str], *command: str
) -> subprocess.CompletedProcess[str]:
    """As docs/cluster.md says, from a checkout of the code."""
    options = [
        "--address",
        cluster.address,
        "--working-dir",
        ".",
        "--runtime-env",
        "deploy/runtime-env.yaml",
    ]
    return subprocess.run(
        [RAY, "job", "submit", *options, "--", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SUBMIT_SECONDS,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_submitted_job_writes_the_store_of_a_local_run(
    cluster: Cluster, in_this_process: None, tmp_path: Path
) -> None:
    rng, pictures = np.random.default_rng(0), tmp_path / "pictures"
    pictures.mkdir()
    for number in range(36):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(
            pictures / f"{number:02d}.png"
        )
    compressor, stores = (
        write_models(tmp_path),
        {name: tmp_path / name for name in ("submitted", "local")},
    )
    command = [
        "python",
        "-m",
        "flows.compress",
        str(pictures),
        str(compressor),
        str(stores["submitted"]),
    ]
    done = submit(cluster, cluster.environment, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "36 pictures in 1 files" in done.stdout
    compress(
        load_params("compress", CompressParams, ROOT / "params.yaml"),
        str(pictures),
        compressor,
        stores["local"],
        None,
    )
    assert contents(stores["submitted"]) == contents(stores["local"])


def test_workers_of_a_cluster_do_not_get_the_settings_of_a_laptop(cluster: Cluster) -> None:
    """They would look for each other on the loopback interface."""
    task = "__import__('flows') and __import__('os').environ.get('GLOO_SOCKET_IFNAME')"
    code = (
        f"import ray; ray.init(); print('interface:', ray.get(ray.remote(lambda: {task}).remote()))"
    )
    assert "interface: None" in submit(cluster, cluster.environment, "python", "-c", code).stdout


def test_a_job_that_fails_fails_its_submission_with_the_reason(
    cluster: Cluster, tmp_path: Path
) -> None:
    done = submit(
        cluster,
        cluster.environment,
        "python",
        "-m",
        "flows.compress",
        *(str(tmp_path / name) for name in "abc"),
    )
    assert done.returncode != 0
    assert "holds no trained compressor" in done.stdout


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "Missing authentication token"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "no"}, "Invalid authentication"),
    ],
    ids=["no token", "another token"],
)
def test_whoever_has_no_token_is_refused(
    cluster: Cluster, variables: dict[str, str], reason: str, tmp_path: Path
) -> None:
    # where Ray looks for a token, too
    environment = client_environment() | {"HOME": str(tmp_path), **variables}
    done = submit(cluster, environment, "touch", str(tmp_path / "touched"))
    assert done.returncode != 0
    assert reason in done.stdout + done.stderr
    assert not (tmp_path / "touched").exists()
    assert status_of(f"{cluster.address}/api/jobs/", variables.get("RAY_AUTH_TOKEN")) == (
        403 if variables else 401
    )
