"""Which Ray cluster a flow runs on: the one `RAY_ADDRESS` names, else one of its own on the loopback interface.

Worker counts and sizes are values of `params.yaml`; where they run is said by Ray's own environment variable only.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence

import ray
from ray.data import DataContext, TaskPoolStrategy
from ray.data._internal.tensor_extensions.arrow import FixedShapeTensorFormat

# Ray Data hangs without a word when its actors hold every CPU and none is left to read or write, so a small machine
# announces a few more CPUs than it has; they are tickets for the scheduler, not threads.
MIN_LOCAL_CPUS = 8
LOCAL_OBJECT_STORE_BYTES = 1 << 30


def connect(log_to_driver: bool = True) -> None:
    """Connect this process to Ray, unless it is already, and apply the project's Ray Data settings.

    log_to_driver: repeat here what workers print; errors that end the work come out in any case.
    """
    if not ray.is_initialized():
        _connect_to_cluster(log_to_driver) if os.environ.get("RAY_ADDRESS") else _start_local(log_to_driver)
    use_plain_ray_data()


def check_resources(num_workers: int, cpus_per_worker: int, gpus_per_worker: int) -> None:
    """Fail at once where Ray would wait for ever: a machine of its own never grows. A cluster may.

    Raises ValueError when the workers do not fit.
    """
    if os.environ.get("RAY_ADDRESS"):
        return
    for name, wanted in (("CPU", num_workers * cpus_per_worker), ("GPU", num_workers * gpus_per_worker)):
        found = int(ray.cluster_resources().get(name, 0))
        if wanted > found:
            raise ValueError(
                f"{num_workers} workers want {wanted} {name}s, this machine has {found}; lower num_workers or "
                f"{name.lower()}s_per_worker in params.yaml, or set RAY_ADDRESS to a larger cluster"
            )


def run_tasks(task: Callable[[str], int], pieces: Sequence[str], num_workers: int) -> Iterator[int]:
    """Run `task` on every piece on the cluster, at most `num_workers` at a time; its numbers as they come."""
    if not pieces:
        return

    def run(row: dict[str, str]) -> dict[str, int]:
        return {"number": task(row["piece"])}

    connect()
    dataset = ray.data.from_items([{"piece": piece} for piece in pieces], override_num_blocks=len(pieces))
    for row in dataset.map(run, compute=TaskPoolStrategy(size=num_workers)).iter_rows():
        yield row["number"]


def use_plain_ray_data() -> None:
    """Ray Data for log files and small tables.

    No progress bars, which flood a log; tensors in Arrow's own type; the reader that makes a block of each small file.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.use_datasource_v2 = False
    context.arrow_fixed_shape_tensor_format = FixedShapeTensorFormat.ARROW_NATIVE


def _connect_to_cluster(log_to_driver: bool) -> None:
    # No CPU count and no working directory: both belong to the cluster and to `ray job submit`.
    ray.init(log_to_driver=log_to_driver, logging_level=logging.WARNING)


def _start_local(log_to_driver: bool) -> None:
    """One node that ends with this process; flows/__init__.py bound it to 127.0.0.1 before Ray was imported."""
    ray.init(
        address="local",  # never a cluster that another run left a note about
        num_cpus=max(MIN_LOCAL_CPUS, os.cpu_count() or 1),
        object_store_memory=LOCAL_OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=log_to_driver,
        logging_level=logging.WARNING,
    )
