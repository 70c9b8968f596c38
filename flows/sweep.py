"""Job `sweep`: the runs of a file in `sweeps/` as DVC experiments, and their scores as one table.

    python -m flows.sweep queue sweeps/ablations.yaml      then: dvc queue start
    python -m flows.sweep table sweeps/ablations.yaml

A sweep is a list of runs, each with the params that it changes, times some seeds. Experiments are called
SWEEP-RUN-SEED, so that runs that are there already are not queued again and a table can be made at any time.
"""

import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import dvc.api
import typer
from pydantic import Field
from ruamel.yaml import YAML

from components.params import Params

# Two-sided 95 % points of Student's t by degrees of freedom; of the normal distribution beyond.
T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
SEED = "train.seed"
UNFINISHED = ("Queued", "Running", "Failed")  # states of an experiment
app = typer.Typer(add_completion=False, no_args_is_help=True)
SweepFile = Annotated[Path, typer.Argument(help="A file of sweeps/.", exists=True, dir_okay=False)]
Value = str | float | int | bool


class Sweep(Params):
    """The contents of a sweep file."""

    seeds: tuple[int, ...] = Field(min_length=1)
    params: dict[str, Value]  # dotted key -> value, the same in all runs
    runs: dict[str, dict[str, Value] | None]  # name -> what it changes
    metrics: dict[str, str]  # column of the table -> dotted key in results/metrics.json


class Experiment(Params):
    """One run with one seed."""

    name: str
    run: str
    overrides: dict[str, Value]


def read_sweep(path: Path) -> Sweep:
    """Raises ValueError naming what is wrong with the file."""
    return Sweep.model_validate(YAML(typ="safe").load(path), strict=False)  # lists as tuples


def experiments(sweep: Sweep, name: str) -> Iterator[Experiment]:
    """All runs with one seed, then with the next; names have only letters, digits and hyphens."""
    for seed in sweep.seeds:
        for run, changes in sweep.runs.items():
            slug = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
            overrides = {**sweep.params, **(changes or {}), SEED: seed}
            yield Experiment(name=f"{name}-{slug}-{seed}", run=run, overrides=overrides)


def queue_command(experiment: Experiment) -> list[str]:
    """What queues an experiment."""
    settings = [part for key, value in experiment.overrides.items() for part in ("-S", f"{key}={value}")]
    return ["dvc", "exp", "run", "--queue", "--name", experiment.name, *settings]


def scores(rows: Sequence[Mapping[str, Any]], sweep: Sweep, name: str) -> dict[str, dict[str, list[float]]]:
    """{run: {column: a score per seed}} from the rows of `dvc exp show`, of experiments that have ended well.

    Of others DVC shows the scores of the commit that they started from.
    """
    found = {row["Experiment"]: row for row in rows if row.get("Experiment") and row.get("State") not in UNFINISHED}
    table: dict[str, dict[str, list[float]]] = {run: {column: [] for column in sweep.metrics} for run in sweep.runs}
    for experiment in experiments(sweep, name):
        for column, key in sweep.metrics.items():
            value = found.get(experiment.name, {}).get(key)
            if isinstance(value, int | float):
                table[experiment.run][column].append(float(value))
    return table


def interval(values: Sequence[float]) -> str:
    """Mean and half of its 95 % interval over seeds; a single one has none."""
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.3f}"
    if len(values) == 1:
        return mean
    half = T_95.get(len(values) - 1, 1.96) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean} ± {half:.3f}"


def as_markdown(table: Mapping[str, Mapping[str, Sequence[float]]], columns: Sequence[str]) -> str:
    """The scores as a table, with the number of seeds that have ended."""
    lines = ["| run | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for run, by_column in table.items():
        count = max(map(len, by_column.values()), default=0)
        lines.append(f"| {run} | {count} | " + " | ".join(interval(by_column[column]) for column in columns) + " |")
    return "\n".join(lines)


@app.command()
def queue(path: SweepFile) -> None:
    """Queue the experiments that are not there yet."""
    known = {row.get("Experiment") for row in dvc.api.exp_show()}
    for experiment in experiments(read_sweep(path), path.stem):
        if experiment.name in known:
            print(f"sweep: {experiment.name} is there already")
        elif subprocess.run(queue_command(experiment), check=False).returncode:
            sys.exit(f"sweep: {experiment.name} could not be queued")


@app.command()
def table(path: SweepFile) -> None:
    """Print the scores of the experiments that have ended."""
    sweep = read_sweep(path)
    print(as_markdown(scores(dvc.api.exp_show(), sweep, path.stem), list(sweep.metrics)))


if __name__ == "__main__":
    app()
