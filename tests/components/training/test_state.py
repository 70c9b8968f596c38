import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.methods.fwd2bot import DoubleForward
from components.training.optimizer import build_optimizer, trained_parameters
from components.training.state import (
    CHECKSUMS_FILE,
    START,
    WEIGHTS_FILE,
    HistoryRow,
    TrainingState,
    is_intact,
    load_state,
    load_weights,
    save_state,
    seed_step,
    weights_of,
)
from tests.components.training.world import OPTIMIZER, build_model


def build_state(model: DoubleForward) -> TrainingState:
    trained = trained_parameters(model)
    return TrainingState(trained, build_optimizer(trained, OPTIMIZER), START, {})


def update(state: TrainingState) -> None:
    for group in state.optimizer.param_groups:
        group["lr"] = 1e-2
    for index, parameter in enumerate(state.parameters.values()):
        parameter.grad = torch.full_like(parameter, 0.1 * (index + 1))
    state.optimizer.step()


def test_a_state_comes_back_bit_for_bit(
    model: DoubleForward, llava_folder: Path, tmp_path: Path
) -> None:
    state = build_state(model)
    update(state)
    state.progress = state.progress.model_copy(
        update={"next_step": 1, "unlogged": ({"loss": 1 / 3},)}
    )
    state.keep_as_best(0.1)
    update(state)
    row = HistoryRow(step=1, metrics={"loss": 0.1 + 0.2}, timings={"seconds_per_step": 1e-9})
    state.progress = state.progress.model_copy(update={"next_step": 2, "history": (row,)})
    save_state(state, tmp_path)
    other = build_state(build_model(llava_folder))
    load_state(other, tmp_path)
    assert other.progress == state.progress
    assert (other.progress.best_step, other.progress.best_score) == (1, 0.1)
    assert all(torch.equal(weight, state.best[name]) for name, weight in other.best.items())
    update(state)
    update(other)  # so that the moments of the optimizer count
    assert all(
        torch.equal(weight, state.parameters[name]) for name, weight in other.parameters.items()
    )


def damage_missing(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()


def damage_cut(folder: Path) -> None:
    os.truncate(folder / WEIGHTS_FILE, 100)


def damage_changed(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(content)


def damage_unfinished(folder: Path) -> None:
    (folder / CHECKSUMS_FILE).unlink()


def damage_empty(folder: Path) -> None:
    (folder / CHECKSUMS_FILE).write_bytes(b"")


@pytest.mark.parametrize(
    "damage",
    [damage_missing, damage_cut, damage_changed, damage_unfinished, damage_empty],
    ids=lambda it: it.__name__,
)
def test_damage_to_a_checkpoint_is_seen(
    model: DoubleForward, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    save_state(build_state(model), tmp_path)
    assert is_intact(tmp_path)
    damage(tmp_path)
    assert not is_intact(tmp_path)


def test_a_full_disk_leaves_no_checkpoint_that_passes_for_whole(
    model: DoubleForward, tmp_path: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(Exception, match=r"File too large|I/O error|os error 27"):
            save_state(build_state(model), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not is_intact(tmp_path)


def test_all_that_is_trained_is_kept(model: DoubleForward) -> None:
    names = weights_of(trained_parameters(model)).keys()
    assert {"queries.weight", "log_logit_scale"} < names
    assert {name.split(".")[-2] for name in names if "lora" in name} == {
        "compression",
        "generation",
    }


def test_weights_of_another_model_are_refused(model: DoubleForward) -> None:
    trained = trained_parameters(model)
    weights = weights_of(trained) | {"queries.weight": torch.zeros(8, 32)}
    with pytest.raises(ValueError, match=r"queries.weight is \(8, 32\), expected \(4, 32\)"):
        load_weights(trained, weights)


def test_random_numbers_of_a_step_are_a_function_of_seed_step_and_worker() -> None:
    def draw(seed: int, step: int, rank: int) -> list[float]:
        seed_step(seed, step, rank)
        return torch.rand(3).tolist()

    first = draw(0, 5, 1)
    torch.rand(100)
    assert draw(0, 5, 1) == first
    assert len({tuple(draw(*key)) for key in [(0, 5, 1), (1, 5, 1), (0, 6, 1), (0, 5, 0)]}) == 4
