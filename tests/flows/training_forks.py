"""The workers of `train` as processes of a fork server, where a test is not about Ray.

Put in the place of Ray's trainer, they spare the imports of every worker and of Ray's own helpers,
which take longer than the steps of a test. That Ray's workers end with the same bytes is tested in
test_train.py.
"""

import multiprocessing
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import torch
from ray.train import Checkpoint, RunConfig, ScalingConfig

from flows.workers import train_worker as module

MODULE = "flows.workers.train_worker"


class TrainingForks:
    """What of `TorchTrainer` the stage uses: workers that meet through gloo."""

    def __init__(
        self,
        function: Any,
        train_loop_config: dict[str, Any],
        scaling_config: ScalingConfig,
        run_config: RunConfig,
    ) -> None:
        assert function is module.train_worker
        self.config = train_loop_config
        self.num_workers = int(scaling_config.num_workers)  # type: ignore[call-overload]
        self.run = Path(str(run_config.storage_path), str(run_config.name))

    def fit(self) -> SimpleNamespace:
        """Run all workers to their end, and return what the first of them does."""
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload([MODULE])
        meeting = self.run / "meeting"
        meeting.unlink(missing_ok=True)

        with ProcessPoolExecutor(self.num_workers, server) as pool:
            workers = []
            for rank in range(self.num_workers):
                place = (rank, self.num_workers, str(meeting))
                workers.append(pool.submit(work, self.config, self.run, *place))
            results = [worker.result() for worker in workers]
        return SimpleNamespace(return_value=results[0])


def work(
    config: dict[str, Any], run: Path, rank: int, num_workers: int, meeting: str
) -> dict[str, str | int]:
    """Be one worker, with what Ray would tell it and do for it."""

    def report(metrics: dict[str, Any], checkpoint: Checkpoint | None, **name: str) -> None:
        if checkpoint:
            shutil.copytree(checkpoint.path, run / name["checkpoint_dir_name"])

    patch = pytest.MonkeyPatch()
    context = SimpleNamespace(get_world_rank=lambda: rank)
    patch.setattr(ray.train, "get_context", lambda: context)
    patch.setattr(ray.train, "get_preemption_info", lambda: None)
    patch.setattr(ray.train, "report", report)
    patch.setattr(module, "get_device", lambda: torch.device("cpu"))

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=num_workers
    )
    try:
        return module.train_worker(config)
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def training_forks() -> Iterator[None]:
    """Let the stage train without Ray; the signals that it handles are left as they were."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.train.TorchTrainer", TrainingForks)
        patch.setattr("flows.train.connect", lambda **_: None)
        patch.setattr("flows.train.check_resources", lambda *_: None)
        yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
