"""Which Ray cluster a flow runs on: the one `RAY_ADDRESS` names, else one started for this process on the loopback interface.

Worker counts and sizes are values of `params.yaml`; where they run is Ray's own environment variable and nothing of this project.
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
    """Connects this process to Ray and applies the project's Ray Data settings; does nothing more when it is connected already."""
    if not ray.is_initialized():
        _connect_to_cluster() if os.environ.get("RAY_ADDRESS") else _start_local()
    use_plain_ray_data()


def use_plain_ray_data() -> None:
    """Ray Data without progress bars (they flood a log file), with tensors as Arrow's own, with the reader that keeps small files apart."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.use_datasource_v2 = False
    context.arrow_fixed_shape_tensor_format = FixedShapeTensorFormat.ARROW_NATIVE


def _connect_to_cluster() -> None:
    # No CPU count and no working directory: both belong to the cluster and to `ray job submit`.
    ray.init(logging_level=logging.WARNING)


def _start_local() -> None:
    """One node for this process only; it ends with it. flows/__init__.py has bound it to 127.0.0.1 before Ray was imported."""
    ray.init(
        address="local",  # never a cluster that another run left a note about
        num_cpus=max(MIN_LOCAL_CPUS, os.cpu_count() or 1),
        object_store_memory=LOCAL_OBJECT_STORE_BYTES,
        include_dashboard=False,
        logging_level=logging.WARNING,
    )
