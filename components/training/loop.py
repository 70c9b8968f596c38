"""The training loop without any engine: what it needs of the outside world is handed in as functions."""

import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from functools import partial
from typing import NamedTuple

import torch
from pydantic import Field

from components.methods.fwd2bot import DoubleForward
from components.methods.method import Method
from components.params import Params
from components.training.alignment import AlignmentParams, backward_alignment
from components.training.collate import TrainBatch
from components.training.distributed import rank, sum_over_workers, world_size
from components.training.forward import LossParams
from components.training.optimizer import OptimizerParams, learning_rate_at
from components.training.state import HistoryRow, Progress, TrainingState, seed_step
from components.training.step import backward_module_alone, backward_step, train_step


class LoopParams(Params):
    """How long, and how often something else happens; all counted in steps."""

    num_steps: int = Field(ge=1)
    log_every_steps: int = Field(ge=1)
    validate_every_steps: int = Field(ge=1)
    checkpoint_every_steps: int = Field(ge=1)
    # steps whose gradient is not finite; one more ends the run
    max_skipped_steps: int = Field(ge=0)


class Outcome(StrEnum):
    """How a run ended."""

    FINISHED = "finished"
    STOPPED = "stopped"  # on request, after a checkpoint
    DIVERGED = "diverged"  # too many steps without a finite gradient


class Surroundings(NamedTuple):
    """What the loop asks of its surroundings; all workers call all of them at the same steps."""

    # metrics, among them the "score" by which the best weights are chosen
    validate: Callable[[], dict[str, float]]
    checkpoint: Callable[[], None]  # save the training state
    publish: Callable[[Sequence[HistoryRow]], None]  # show the whole history so far
    is_stop_requested: Callable[[], bool]  # may differ between workers: one is enough
    # a machine is about to be taken away; the same on all, true once per notice
    is_loss_announced: Callable[[], bool]
    # operations of this worker's part of a step, for the timings
    flops: Callable[[Sequence[TrainBatch]], int]


def run_steps(
    model: Method,
    state: TrainingState,
    steps: Iterable[Sequence[TrainBatch]],
    loop: LoopParams,
    alignment: AlignmentParams,
    num_module_steps: int,
    losses: LossParams,
    optimizer: OptimizerParams,
    seed: int,
    surroundings: Surroundings,
) -> Outcome:
    """Train from step `state.progress.next_step`, at which `steps` (the chunks of each) begin, to the end.

    In the first `num_module_steps` only what a method adds learns, and the connector if it is
    trained.
    """
    model.train()
    stopwatch = Stopwatch()
    for chunks in steps:
        stopwatch.note_arrival()
        step = state.progress.next_step
        seed_step(seed, step, rank())
        rate = learning_rate_at(step, loop.num_steps, optimizer)
        chunks = [chunk.to(model.device) for chunk in chunks]
        if step < alignment.num_steps:
            assert isinstance(model, DoubleForward)  # the params say so
            backward = partial(backward_alignment, model, chunks, alignment.masked_share)
        elif step < num_module_steps:
            backward = partial(backward_module_alone, model, chunks, losses)
        else:
            backward = partial(backward_step, model, chunks, losses)
        metrics = train_step(model, state.optimizer, backward, rate, optimizer.max_gradient_norm)
        state.progress = after_step(state.progress, metrics)
        stopwatch.count(chunks, surroundings.flops(chunks) if step >= alignment.num_steps else 0)
        if state.progress.num_skipped_steps > loop.max_skipped_steps:
            return Outcome.DIVERGED
        is_stopping = _any_worker(surroundings.is_stop_requested(), model.device)
        if after_interval(state, loop, stopwatch, surroundings) or is_stopping:
            surroundings.checkpoint()
        if is_stopping:
            return Outcome.STOPPED
        stopwatch.go_on()
    return Outcome.FINISHED


def after_interval(
    state: TrainingState, loop: LoopParams, stopwatch: "Stopwatch", surroundings: Surroundings
) -> bool:
    """Log and validate when it is time; says whether it is time for a checkpoint too."""
    done = state.progress.next_step
    is_last = done == loop.num_steps
    is_urgent = False
    if done % loop.log_every_steps == 0 or is_last:
        state.progress = with_row(state.progress, stopwatch.timings())
        surroundings.publish(state.progress.history)
        is_urgent = surroundings.is_loss_announced()
    if done % loop.validate_every_steps == 0 or is_last:
        keep_score(state, surroundings.validate())
        surroundings.publish(state.progress.history)
    return done % loop.checkpoint_every_steps == 0 or is_last or is_urgent


def after_step(progress: Progress, metrics: dict[str, float]) -> Progress:
    """Count a step and remember its metrics until the next row of the history."""
    is_skipped = bool(metrics["is_skipped"])
    return progress.model_copy(
        update={
            "next_step": progress.next_step + 1,
            "num_skipped_steps": progress.num_skipped_steps + is_skipped,
            "unlogged": progress.unlogged if is_skipped else (*progress.unlogged, metrics),
        }
    )


def with_row(progress: Progress, timings: dict[str, float]) -> Progress:
    """Turn the remembered metrics into a row of means."""
    # of the same phase
    steps = [step for step in progress.unlogged if step.keys() == progress.unlogged[-1].keys()]
    names = [name for name in steps[-1] if name != "is_skipped"] if steps else []
    means = {f"train/{name}": sum(step[name] for step in steps) / len(steps) for name in names}
    metrics = {**means, "train/skipped_steps": float(progress.num_skipped_steps)}
    row = HistoryRow(step=progress.next_step, metrics=metrics, timings=timings)
    return progress.model_copy(update={"history": (*progress.history, row), "unlogged": ()})


def keep_score(state: TrainingState, metrics: dict[str, float]) -> None:
    """Add a row for a validation, and keep the weights if no earlier ones were as good."""
    if state.progress.best_score is None or metrics["score"] > state.progress.best_score:
        state.keep_as_best(metrics["score"])
    named = {f"validation/{name}": value for name, value in metrics.items()}
    assert state.progress.best_score is not None
    named["validation/best_score"] = state.progress.best_score
    row = HistoryRow(step=state.progress.next_step, metrics=named, timings={})
    state.progress = state.progress.model_copy(update={"history": (*state.progress.history, row)})


class Stopwatch:
    """Time spent in steps, waiting for batches included, validation and checkpoints not."""

    def __init__(self) -> None:
        self.num_steps = self.num_samples = self.flops = 0
        self.seconds = self.waited = 0.0
        self.go_on()

    def go_on(self) -> None:
        self.started = time.perf_counter()

    def note_arrival(self) -> None:
        """The samples of a step are there."""
        self.waited += time.perf_counter() - self.started

    def count(self, chunks: Sequence[TrainBatch], flops: int) -> None:
        self.seconds += time.perf_counter() - self.started
        self.num_steps += 1
        self.flops += flops
        self.num_samples += (
            sum(len(chunk.conversation_ids) + chunk.num_pairs for chunk in chunks) * world_size()
        )

    def timings(self) -> dict[str, float]:
        """Means since the last call. A sample is a conversation or a caption, of any worker; waiting is for samples."""
        timings = {
            "seconds_per_step": self.seconds / max(self.num_steps, 1),
            "samples_per_second": self.num_samples / max(self.seconds, 1e-9),
            "data_wait_share": self.waited / max(self.seconds, 1e-9),
            "flops_per_second_and_worker": self.flops / max(self.seconds, 1e-9),
            "peak_memory_bytes": float(peak_memory_bytes()),
        }
        self.num_steps = self.num_samples = self.flops = 0
        self.seconds = self.waited = 0.0
        return timings


def peak_memory_bytes() -> int:
    """Of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _any_worker(is_true: bool, device: torch.device) -> bool:
    return bool(sum_over_workers(torch.tensor(float(is_true), device=device)))
