"""Which Ray cluster a flow runs on: the one `RAY_ADDRESS` names, else one of its own on the loopback interface.

Worker counts and sizes are values of `params.yaml`; where they run is said by Ray's own environment variable only.
"""

import logging
import os

import ray
from ray.data import DataContext
from ray.data._internal.tensor_extensions.arrow import FixedShapeTensorFormat

# Ray Data hangs without a word when its actors hold every CPU and none is left to read or write, so a small machine
# announces a few more CPUs than it has; they are tickets for the scheduler, not threads.
MIN_LOCAL_CPUS = 8
LOCAL_OBJECT_STORE_BYTES = 1 << 30


def connect() -> None:
    """Connect this process to Ray, unless it is already, and apply the project's Ray Data settings."""
    if not ray.is_initialized():
        _connect_to_cluster() if os.environ.get("RAY_ADDRESS") else _start_local()
    use_plain_ray_data()


def use_plain_ray_data() -> None:
    """Ray Data for log files and small tables.

    No progress bars, which flood a log; tensors in Arrow's own type; the reader that makes a block of each small file.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.use_datasource_v2 = False
    context.arrow_fixed_shape_tensor_format = FixedShapeTensorFormat.ARROW_NATIVE


def _connect_to_cluster() -> None:
    # No CPU count and no working directory: both belong to the cluster and to `ray job submit`.
    ray.init(logging_level=logging.WARNING)


def _start_local() -> None:
    """One node that ends with this process; flows/__init__.py bound it to 127.0.0.1 before Ray was imported."""
    ray.init(
        address="local",  # never a cluster that another run left a note about
        num_cpus=max(MIN_LOCAL_CPUS, os.cpu_count() or 1),
        object_store_memory=LOCAL_OBJECT_STORE_BYTES,
        include_dashboard=False,
        logging_level=logging.WARNING,
    )
