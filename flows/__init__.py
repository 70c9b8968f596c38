"""The stages and jobs, one file each: read params, call components, write outputs.

The only place that knows Ray, DVC and paths. Ray, Great Expectations and others read their settings
when they are imported, so the settings stand here, before any flow does that; a value that the user
has set is left alone.
"""

import atexit
import gc
import os
import secrets
import sys

SETTINGS = {
    # nothing here reports to anyone
    "RAY_USAGE_STATS_ENABLED": "0",
    "GX_ANALYTICS_ENABLED": "False",
    "DVC_NO_ANALYTICS": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # quiet
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else every line a worker prints appears twice
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",  # tokenizers warns after every fork otherwise
    # a busy laptop needs more than the usual minute to import torch
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
}
ON_A_LAPTOP = {
    # With 0 Ray takes 127.0.0.1 as the address of its node, so nothing listens on a public
    # interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Who may use that node: this process and those it starts. Ray's own way writes a token into the
    # home folder.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # a run waits for several such looks; with the usual 2, nine seconds
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # No worker before one is asked for: those of a training have settings of their own, and Ray's
    # first ones would wait to the end. No measurements of the node: no dashboard shows them.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_metrics_collection": "0",
}
# Objects that Python makes before it looks for cycles among the new ones, 700 by itself. The half
# million objects of PyTorch, Transformers and Ray stay: looking at them all the time is a fifth of
# the time of importing them.
OBJECTS_BETWEEN_LOOKS = 50_000

# Workers have those of whoever started their node: here its driver, on a cluster nobody with these
# settings.
_is_elsewhere = "RAY_ADDRESS" in os.environ or "RAY_RAYLET_PID" in os.environ
for _name, _value in (SETTINGS if _is_elsewhere else SETTINGS | ON_A_LAPTOP).items():
    os.environ.setdefault(_name, _value)


def _leave_memory() -> None:
    """Have Python look for no cycles at its end, when all memory goes: a second with PyTorch."""
    # DuckDB would count what is left, and complain.
    if "duckdb" not in sys.modules:
        gc.freeze()


gc.set_threshold(OBJECTS_BETWEEN_LOOKS)
atexit.register(_leave_memory)
