"""Ray cluster of a flow: the one that `RAY_ADDRESS` names, else one of its own on 127.0.0.1.

Worker counts and sizes are values of `params.yaml`; where they run is said by Ray's own environment
variable only.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import ray
from ray._common.utils import get_default_system_temp_dir
from ray.data import DataContext, TaskPoolStrategy
from ray.data._internal.tensor_extensions.arrow import FixedShapeTensorFormat

from flows.running.endings import lost

# Ray Data hangs without a word when its actors hold every CPU and none is left to read or write, so
# a small machine announces a few more CPUs than it has; they are tickets for the scheduler, not
# threads.
MIN_LOCAL_CPUS = 8
LOCAL_OBJECT_STORE_BYTES = 1 << 30
SECONDS_BETWEEN_LOOKS, SECONDS_TO_END = 0.5, 3.0  # for a process that is on its way out by itself
SECONDS_TO_ANSWER = 30.0
# below the folder for temporary files
SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
MAX_SOCKET_PATH = 107  # bytes, of the kernel


def connect(log_to_driver: bool = True) -> None:
    """Connect this process to Ray, unless it is already, and apply the project's Ray Data settings.

    log_to_driver: repeat here what workers print; errors that end the work come out in any case.
    """
    if not ray.is_initialized():
        start = _connect_to_cluster if os.environ.get("RAY_ADDRESS") else _start_local
        with _our_sigterm():
            start(log_to_driver)
        watch = threading.Thread(
            target=_watch_raylet, args=(_find_raylet(),), name="watch-raylet", daemon=True
        )
        watch.start()

    use_plain_ray_data()


def check_resources(num_workers: int, cpus_per_worker: int, gpus_per_worker: int) -> None:
    """Raise ValueError when workers do not fit on this machine, where Ray would wait for ever.

    A cluster may grow, and is not looked at.
    """
    if os.environ.get("RAY_ADDRESS"):
        return

    resources = ray.cluster_resources()
    for name, per_worker in (("CPU", cpus_per_worker), ("GPU", gpus_per_worker)):
        wanted, found = num_workers * per_worker, int(resources.get(name, 0))
        if wanted > found:
            raise ValueError(
                f"{num_workers} workers want {wanted} {name}s, this machine has {found}; "
                f"lower num_workers or {name.lower()}s_per_worker in params.yaml, "
                "or set RAY_ADDRESS to a larger cluster"
            )


def check_address(address: str) -> None:
    """Raise ValueError when nobody listens at a HOST:PORT, where Ray would try again and again."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal() or not host:  # "auto" and the like, which Ray looks up
        return

    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"RAY_ADDRESS={address}: nobody answers there ({error}); start the cluster, "
            "or unset RAY_ADDRESS to compute on this machine"
        ) from None


def check_temporary_folder(folder: str) -> None:
    """Raise ValueError when Ray cannot keep its sockets below this folder."""
    # The kernel refuses sockets with longer paths.
    longest = os.path.join(os.path.abspath(folder), SOCKET)
    if len(os.fsencode(longest)) > MAX_SOCKET_PATH:
        raise ValueError(
            f"{folder}: the paths of Ray's sockets below it get longer than {MAX_SOCKET_PATH} "
            "bytes; set RAY_TMPDIR to a folder of yours with a short path"
        )

    # Ray makes the folders that are missing.
    places = (Path(folder, "ray"), Path(folder), *Path(folder).parents)
    existing = next(path for path in places if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(
            f"{existing}: Ray cannot write there; "
            "set RAY_TMPDIR to a folder of yours with a short path"
        )


def run_tasks(task: Callable[[str], int], pieces: Sequence[str], num_workers: int) -> Iterator[int]:
    """Run `task` on every piece, `num_workers` at a time; yield its numbers as they come."""
    if not pieces:
        return

    def run(row: dict[str, str]) -> dict[str, int]:
        return {"number": task(row["piece"])}

    # A block per piece: each is a task of its own, and starts when a worker is free.
    connect()
    rows = [{"piece": piece} for piece in pieces]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    for row in dataset.map(run, compute=TaskPoolStrategy(size=num_workers)).iter_rows():
        yield row["number"]


def use_plain_ray_data() -> None:
    """Set up Ray Data for log files and small tables.

    No progress bars, which flood a log; tensors in Arrow's own type; the reader that makes a block
    of each small file.
    """
    # it warns of bars that are not wanted
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.use_datasource_v2 = False
    context.arrow_fixed_shape_tensor_format = FixedShapeTensorFormat.ARROW_NATIVE


def _connect_to_cluster(log_to_driver: bool) -> None:
    check_address(os.environ["RAY_ADDRESS"])
    # No CPU count and no working directory: both belong to the cluster and to `ray job submit`.
    ray.init(log_to_driver=log_to_driver, logging_level=logging.WARNING)


def _start_local(log_to_driver: bool) -> None:
    """Start one node that ends with this process; flows/__init__.py has bound it to 127.0.0.1."""
    check_temporary_folder(get_default_system_temp_dir())
    ray.init(
        address="local",  # never a cluster that another run left a note about
        num_cpus=max(MIN_LOCAL_CPUS, os.cpu_count() or 1),
        object_store_memory=LOCAL_OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=log_to_driver,
        logging_level=logging.WARNING,
    )


@contextmanager
def _our_sigterm() -> Iterator[None]:
    """Keep our handler of SIGTERM: Ray takes the signal when it starts, to abort with a stack."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _find_raylet() -> psutil.Process | None:
    """Return the process through which this one talks to Ray, if it can be seen from here."""
    here = ray.get_runtime_context().get_node_id()
    sockets = {node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == here}

    # A raylet has the name of its socket among its arguments; other nodes may run here, too.
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline() if process.name() == "raylet" else []
            if any(name in " ".join(words) for name in sockets):
                return process
    return None


def _watch_raylet(raylet: psutil.Process | None) -> None:
    """End this process with a message when its raylet is gone; Ray would end it without one."""
    while raylet and ray.is_initialized():
        if not raylet.is_running() or raylet.status() == psutil.STATUS_ZOMBIE:
            # It may be a proper end, at which the raylet stops first.
            time.sleep(SECONDS_TO_END)
            if ray.is_initialized():
                lost("Ray's node of this machine")
        time.sleep(SECONDS_BETWEEN_LOOKS)
