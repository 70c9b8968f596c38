"""A training run that can stop anywhere and go on as if it had not.

What has to be kept: trained weights, the optimizer, and the progress. The schedule, the samples and
the random numbers of a step are functions of the seed and the number of the step
(`learning_rate_at`, `GroupedSampler`, `seed_step`), so that number is their whole state.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components.files.atomic import sha256_of
from components.files.permissions import write_by_umask
from components.params import Params
from components.training.optimizer import Optimizer

WEIGHTS_FILE = "weights.safetensors"
BEST_FILE = "best.safetensors"
OPTIMIZER_FILE = "optimizer.pt"
PROGRESS_FILE = "progress.json"
CHECKSUMS_FILE = "checksums.json"  # SHA-256 of the others; written last


class HistoryRow(Params):
    """Measurements after `step` steps; timings stand apart, since they differ from run to run."""

    step: int
    metrics: dict[str, float]
    timings: dict[str, float]


class Progress(Params):
    """Position and history of a run; replaced, not changed."""

    next_step: int = Field(ge=0)  # = number of steps done
    num_skipped_steps: int = Field(ge=0)  # because the gradient was not finite
    best_step: int | None
    best_score: float | None
    history: tuple[HistoryRow, ...]
    unlogged: tuple[dict[str, float], ...]  # metrics of the steps since the last row of the history


START = Progress(
    next_step=0, num_skipped_steps=0, best_step=None, best_score=None, history=(), unlogged=()
)


@dataclass
class TrainingState:
    """Everything that changes in the course of training."""

    parameters: dict[str, nn.Parameter]
    optimizer: Optimizer
    progress: Progress
    # the weights with the best score so far, on the CPU; empty before the first validation
    best: dict[str, Tensor]

    def keep_as_best(self, score: float) -> None:
        """Copy the current weights."""
        self.best = weights_of(self.parameters)
        self.progress = self.progress.model_copy(
            update={"best_step": self.progress.next_step, "best_score": score}
        )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make the random numbers of a step (dropout) a function of its number and of the worker."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> 1))


def weights_of(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Copy parameters to the CPU."""
    return {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}


def load_weights(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    """Put weights into a model, in place. Raises ValueError when names or shapes differ."""
    expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected != found:
        differing = dict(expected.items() ^ found.items())
        first = min(differing)
        raise ValueError(
            f"checkpoint of another model: {first} is {found.get(first)}, expected "
            f"{expected.get(first)} ({len(differing)} tensors differ); remove the state folder to "
            "start over"
        )

    # copied, not replaced: the optimizer holds the same tensors
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def save_state(state: TrainingState, folder: Path) -> None:
    """Write the state into a folder, with checksums at the end."""
    weights = weights_of(state.parameters)
    write_by_umask(folder / WEIGHTS_FILE, lambda path: save_file(weights, path))
    write_by_umask(folder / BEST_FILE, lambda path: save_file(state.best, path))
    torch.save(state.optimizer.state_dict(), folder / OPTIMIZER_FILE)
    (folder / PROGRESS_FILE).write_text(state.progress.model_dump_json(), encoding="utf-8")

    checksums = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    (folder / CHECKSUMS_FILE).write_text(json.dumps(checksums), encoding="utf-8")


def is_intact(folder: Path) -> bool:
    """Return whether a checkpoint is as `save_state` left it: not cut off, not changed since.

    Raises OSError when it cannot be read: a disk that fails for a moment proves nothing.
    """
    try:
        # a checkpoint that was cut off has no checksums yet
        checksums = json.loads((folder / CHECKSUMS_FILE).read_text(encoding="utf-8"))
        return bool(checksums) and all(
            sha256_of(folder / name) == value for name, value in checksums.items()
        )
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def load_state(state: TrainingState, folder: Path) -> None:
    """Continue from a folder that `save_state` wrote."""
    load_weights(state.parameters, load_file(folder / WEIGHTS_FILE))
    state.best = load_file(folder / BEST_FILE)
    state.optimizer.load_state_dict(
        torch.load(folder / OPTIMIZER_FILE, map_location="cpu", weights_only=True)
    )
    state.progress = Progress.model_validate_json(
        (folder / PROGRESS_FILE).read_text(encoding="utf-8")
    )
