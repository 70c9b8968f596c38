"""Every test starts from the same seeds, on one thread, with nothing reporting anywhere."""

import os
import random
from collections.abc import Iterator

# Before torch, Ray or DVC is imported, also in the processes that a test starts.
for variable in ("RAY_ADDRESS", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
    os.environ.pop(variable, None)
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",  # no test uses the network
    "GIT_CONFIG_GLOBAL": os.devnull,  # nor the settings of whoever runs it
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@invalid",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@invalid",
}
import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

hypothesis.settings.register_profile("project", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("project")

import flows  # noqa: E402, F401  # its opt-outs and Ray settings, before Ray reads them

# Files whose tests start clusters, train or kill, the longest first: a process that got one of them
# last would end alone. docs/decisions/0043-tests-and-their-time.md says what each of them proves.
LONGEST_FIRST = (
    "test_compress_faults.py",
    "test_train.py",
    "test_end_to_end.py",
    "test_methods.py",
    "test_downloads.py",
    "test_pretrain.py",
    "test_cluster.py",
    "test_curate.py",
    "test_compress.py",
    "test_answer_corpus.py",
    "test_evaluate.py",
    "test_dvc.py",
    "test_pretrained.py",
    "test_families.py",
    "test_sweep_copy.py",
    "test_index.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, and skip tests marked `gpu` on a machine without one."""
    order = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One Ray on the loopback interface for a file of tests, started as the flows start it.

    Not for the whole run: one that many files had used let a job of Ray Data wait for ever.
    """
    import ray

    from flows.running.cluster import connect

    connect()
    yield
    ray.shutdown()
