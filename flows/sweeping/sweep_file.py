"""A file of `sweeps/`, and the experiments that it names."""

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from components.params import Params, read_yaml

SEED = "train.seed"
Value = str | float | int | bool


class Smoke(Params):
    """Few small runs: does everything work together?"""

    seeds: tuple[int, ...] = Field(min_length=1)
    params: dict[str, Value]  # in addition to those of the sweep
    runs: tuple[str, ...]


class Sweep(Params):
    """Contents of a sweep file."""

    stage: str  # the last one that a run needs
    seeds: tuple[int, ...] = Field(min_length=1)
    params: dict[str, Value]  # dotted key -> value, the same in all runs
    runs: dict[str, dict[str, Value] | None]  # name -> what it changes
    first_seed_only: tuple[str, ...]  # runs that take no other
    # column of the table -> dotted key in results/metrics.json, or seconds.STAGE
    metrics: dict[str, str]
    smoke: Smoke | None


class Experiment(Params):
    """Run with one seed."""

    name: str
    run: str
    seed: int
    overrides: dict[str, Value]


def read_sweep(path: Path, smoke: bool) -> tuple[Sweep, str]:
    """Read a sweep, and the prefix of its experiments' names.

    Raises ValueError naming what is wrong with the file.
    """
    sweep = Sweep.model_validate(read_yaml(path), strict=False)  # lists as tuples
    smoke_runs = sweep.smoke.runs if sweep.smoke else ()
    unknown = {*sweep.first_seed_only, *smoke_runs} - set(sweep.runs)
    if unknown:
        raise ValueError(f"{path}: {', '.join(sorted(unknown))}: named, but not in `runs`")
    if not smoke:
        return sweep, path.stem

    # The same sweep with the runs and values of its section.
    if sweep.smoke is None:
        raise ValueError(f"{path}: has no section `smoke`; run it without --smoke")
    changes = {
        "seeds": sweep.smoke.seeds,
        "params": sweep.params | sweep.smoke.params,
        "runs": {name: sweep.runs[name] for name in sweep.smoke.runs},
    }
    return sweep.model_copy(update=changes), f"{path.stem}-smoke"


def experiments(sweep: Sweep, name: str) -> Iterator[Experiment]:
    """Yield all runs with one seed, then with the next.

    Names have only letters, digits and hyphens.
    """
    for seed in sweep.seeds:
        for run, changes in sweep.runs.items():
            if run in sweep.first_seed_only and seed != sweep.seeds[0]:
                continue

            # An experiment is a git ref, and few characters may stand in its name.
            slug = re.sub(r"[^a-z0-9]+", "-", run.lower().replace("+", " plus")).strip("-")
            overrides = {**sweep.params, **(changes or {}), SEED: seed}
            yield Experiment(name=f"{name}-{slug}-{seed}", run=run, seed=seed, overrides=overrides)


def run_arguments(experiment: Experiment, stage: str) -> list[str]:
    """Return the arguments of `dvc exp run`: name, values and stage of an experiment."""
    arguments = ["--name", experiment.name]
    for key, value in experiment.overrides.items():
        arguments += ["-S", f"{key}={value}"]
    return [*arguments, stage]
