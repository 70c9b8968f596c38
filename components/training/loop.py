"""The training loop without any engine: validation, checkpoints and logs are callbacks.

chunks of a step -> gradient (`step`) -> update -> log, validate, checkpoint
"""

import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
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
from components.training.step import backward_module_alone, backward_step, update_weights


class LoopParams(Params):
    """Length of a run and intervals of its side work, all counted in steps."""

    num_steps: int = Field(ge=1)
    log_every_steps: int = Field(ge=1)
    validate_every_steps: int = Field(ge=1)
    checkpoint_every_steps: int = Field(ge=1)
    # steps whose gradient is not finite; one more ends the run
    max_skipped_steps: int = Field(ge=0)


class Outcome(StrEnum):
    """Ways in which a run ends."""

    FINISHED = "finished"
    STOPPED = "stopped"  # on request, after a checkpoint
    DIVERGED = "diverged"  # too many steps without a finite gradient


class Callbacks(NamedTuple):
    """Functions of the caller's engine; all workers call each of them at the same steps."""

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
    callbacks: Callbacks,
) -> Outcome:
    """Train to the end; `steps` are this worker's chunks from `state.progress.next_step` on.

    There are up to three phases: alignment, the first `num_module_steps` in which only what a
    method adds learns (and the connector if it is trained), and training proper.
    """
    model.train()
    stopwatch = Stopwatch()
    for chunks in steps:
        stopwatch.note_arrival()
        step = state.progress.next_step
        seed_step(seed, step, rank())
        chunks = [chunk.to(model.device) for chunk in chunks]

        # the gradient of both losses, averaged over the workers
        if step < alignment.num_steps:
            assert isinstance(model, DoubleForward)  # the params say so
            values = backward_alignment(model, chunks, alignment.masked_share)
            flops = 0  # no formula
        else:
            backward = backward_module_alone if step < num_module_steps else backward_step
            values = backward(model, chunks, losses)
            flops = callbacks.flops(chunks)

        # the same update on every worker, or none if the gradient is not finite
        rate = learning_rate_at(step, loop.num_steps, optimizer)
        metrics = update_weights(model, state.optimizer, values, rate, optimizer.max_gradient_norm)
        state.progress = after_step(state.progress, metrics)
        stopwatch.count(chunks, flops)
        if state.progress.num_skipped_steps > loop.max_skipped_steps:
            return Outcome.DIVERGED

        # workers decide together: a checkpoint takes all of them
        is_requested = torch.tensor(float(callbacks.is_stop_requested()), device=model.device)
        is_stopping = bool(sum_over_workers(is_requested))
        if after_interval(state, loop, stopwatch, callbacks) or is_stopping:
            callbacks.checkpoint()
        if is_stopping:
            return Outcome.STOPPED
        stopwatch.go_on()
    return Outcome.FINISHED


def after_interval(
    state: TrainingState, loop: LoopParams, stopwatch: "Stopwatch", callbacks: Callbacks
) -> bool:
    """Log and validate when it is time; return whether it is time for a checkpoint too."""
    done = state.progress.next_step
    is_last = done == loop.num_steps
    is_urgent = False

    if done % loop.log_every_steps == 0 or is_last:
        state.progress = with_row(state.progress, stopwatch.timings())
        callbacks.publish(state.progress.history)
        is_urgent = callbacks.is_loss_announced()

    if done % loop.validate_every_steps == 0 or is_last:
        keep_score(state, callbacks.validate())
        callbacks.publish(state.progress.history)
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
    # an interval in which the phase changes shows the later phase, which has other losses
    steps = [step for step in progress.unlogged if step.keys() == progress.unlogged[-1].keys()]

    metrics: dict[str, float] = {}
    for name in steps[-1] if steps else ():
        if name != "is_skipped":
            metrics[f"train/{name}"] = sum(step[name] for step in steps) / len(steps)
    metrics["train/skipped_steps"] = float(progress.num_skipped_steps)
    row = HistoryRow(step=progress.next_step, metrics=metrics, timings=timings)
    return progress.model_copy(update={"history": (*progress.history, row), "unlogged": ()})


def keep_score(state: TrainingState, metrics: dict[str, float]) -> None:
    """Add a row for a validation, and keep the weights if no earlier ones were as good."""
    if state.progress.best_score is None or metrics["score"] > state.progress.best_score:
        state.keep_as_best(metrics["score"])
    assert state.progress.best_score is not None

    named = {f"validation/{name}": value for name, value in metrics.items()}
    named["validation/best_score"] = state.progress.best_score
    row = HistoryRow(step=state.progress.next_step, metrics=named, timings={})
    state.progress = state.progress.model_copy(update={"history": (*state.progress.history, row)})


class Stopwatch:
    """Time spent in steps, waiting for batches included, validation and checkpoints not."""

    def __init__(self) -> None:
        self._reset()
        self.go_on()

    def _reset(self) -> None:
        self.num_steps = self.num_samples = self.flops = 0
        self.seconds = self.waited = 0.0

    def go_on(self) -> None:
        self.started = time.perf_counter()

    def note_arrival(self) -> None:
        """Add the time since the last step to that spent waiting for samples."""
        self.waited += time.perf_counter() - self.started

    def count(self, chunks: Sequence[TrainBatch], flops: int) -> None:
        self.seconds += time.perf_counter() - self.started
        self.num_steps += 1
        self.flops += flops
        for chunk in chunks:
            self.num_samples += (len(chunk.conversation_ids) + chunk.num_pairs) * world_size()

    def timings(self) -> dict[str, float]:
        """Return means since the last call and start anew.

        A sample is a conversation or a pair, of any worker; waiting is for samples.
        """
        timings = {
            "seconds_per_step": self.seconds / max(self.num_steps, 1),
            "samples_per_second": self.num_samples / max(self.seconds, 1e-9),
            "data_wait_share": self.waited / max(self.seconds, 1e-9),
            "flops_per_second_and_worker": self.flops / max(self.seconds, 1e-9),
            "peak_memory_bytes": float(peak_memory_bytes()),
        }
        self._reset()
        return timings


def peak_memory_bytes() -> int:
    """Return the peak of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
