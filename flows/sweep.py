"""Job `sweep`: the runs of a file in `sweeps/` as DVC experiments, and their scores as one table.

    python -m flows.sweep run sweeps/ablations.yaml        what is missing, one after another, until all are done
    python -m flows.sweep queue sweeps/ablations.yaml      the same into DVC's queue, then: dvc queue start
    python -m flows.sweep table sweeps/ablations.yaml      the scores of those that have ended
    python -m flows.sweep published                        what the paper prints for the compared methods

A sweep is a list of runs, each with the params that it changes, times some seeds. Experiments are
called SWEEP-RUN-SEED; `dvc exp show` lists them. What has ended with the values that the file now
has is left alone, whatever commit it started from; what failed, was killed or has other values is
made anew. `--smoke` takes the runs and values of the file's section `smoke`: does everything work
together?
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field

from components.files.outputs import check_file, new_file
from components.files.written import OutputError
from components.params import Params, read_yaml
from components.reporting.methods_section import MethodRun, method_run, read_runs, reference_runs
from components.reporting.published import published_markdown, read_published
from components.reporting.seeds import estimate
from components.reporting.wording import count, number
from flows.running.endings import ending
from flows.sweeping.sweep_copy import SweepCopy, only_sweep, stage_seconds
from flows.sweeping.sweep_experiments import (
    clear_queue,
    experiment_rows,
    finished,
    is_unfinished,
    metrics_of,
    value_at,
)

SEED = "train.seed"
app = typer.Typer(add_completion=False, no_args_is_help=True)
SweepFile = Annotated[Path, typer.Argument(help="A file of sweeps/.", exists=True, dir_okay=False)]
IsSmoke = Annotated[
    bool, typer.Option("--smoke", help="The few small runs of the section `smoke`.")
]
DataFile = Annotated[
    Path | None, typer.Option("--data", help="Write all scores and costs to this file, too.")
]
Value = str | float | int | bool


class Smoke(Params):
    """A few small runs."""

    seeds: tuple[int, ...] = Field(min_length=1)
    params: dict[str, Value]  # in addition to those of the sweep
    runs: tuple[str, ...]


class Sweep(Params):
    """The contents of a sweep file."""

    stage: str  # the last one that a run needs
    seeds: tuple[int, ...] = Field(min_length=1)
    params: dict[str, Value]  # dotted key -> value, the same in all runs
    runs: dict[str, dict[str, Value] | None]  # name -> what it changes
    # runs that take the first seed only, since nothing in them depends on it
    without_chance: tuple[str, ...]
    # column of the table -> dotted key in results/metrics.json, or seconds.STAGE
    metrics: dict[str, str]
    smoke: Smoke | None


class Experiment(Params):
    """One run with one seed."""

    name: str
    run: str
    seed: int
    overrides: dict[str, Value]


def read_sweep(path: Path, smoke: bool) -> tuple[Sweep, str]:
    """A sweep and what its experiments' names begin with. Raises ValueError naming what is wrong with the file."""
    sweep = Sweep.model_validate(read_yaml(path), strict=False)  # lists as tuples
    unknown = {*sweep.without_chance, *(sweep.smoke.runs if sweep.smoke else ())} - set(sweep.runs)
    if unknown:
        raise ValueError(f"{path}: {', '.join(sorted(unknown))}: named, but not in `runs`")
    if not smoke:
        return sweep, path.stem
    if sweep.smoke is None:
        raise ValueError(f"{path}: has no section `smoke`; run it without --smoke")
    changes = {
        "seeds": sweep.smoke.seeds,
        "params": sweep.params | sweep.smoke.params,
        "runs": {name: sweep.runs[name] for name in sweep.smoke.runs},
    }
    return sweep.model_copy(update=changes), f"{path.stem}-smoke"


def experiments(sweep: Sweep, name: str) -> Iterator[Experiment]:
    """All runs with one seed, then with the next; names have only letters, digits and hyphens."""
    for seed in sweep.seeds:
        for run, changes in sweep.runs.items():
            slug = re.sub(r"[^a-z0-9]+", "-", run.lower().replace("+", " plus")).strip("-")
            overrides = {**sweep.params, **(changes or {}), SEED: seed}
            if seed == sweep.seeds[0] or run not in sweep.without_chance:
                yield Experiment(
                    name=f"{name}-{slug}-{seed}", run=run, seed=seed, overrides=overrides
                )


def settings(experiment: Experiment) -> list[str]:
    """The name and the values of an experiment as arguments of `dvc exp run`."""
    changes = [
        part for key, value in experiment.overrides.items() for part in ("-S", f"{key}={value}")
    ]
    return ["--name", experiment.name, *changes]


def queue_command(experiment: Experiment, stage: str) -> list[str]:
    """What queues an experiment."""
    return ["dvc", "exp", "run", "--queue", *settings(experiment), stage]


def ended(planned: Sequence[Experiment], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """{name: commit} of the planned experiments that have ended with the values they should have."""
    return finished({it.name: it.overrides for it in planned}, rows)


def scores(
    found: Mapping[str, Mapping[str, Any]], sweep: Sweep, name: str
) -> dict[str, dict[str, list[Any]]]:
    """{run: {column: a score per seed}} from the metrics of experiments by name; what has no such metric adds none."""
    table: dict[str, dict[str, list[Any]]] = {
        run: {column: [] for column in sweep.metrics} for run in sweep.runs
    }
    for experiment in experiments(sweep, name):
        for column, key in sweep.metrics.items():
            value = value_at(found.get(experiment.name, {}), key)
            if isinstance(value, int | float):
                table[experiment.run][column].append(value)
    return table


def interval(values: Sequence[float]) -> str:
    """Mean and half of its 95 % interval over seeds; a single one has none, nor has what is no measurement."""
    if not values:
        return "–"
    if isinstance(values[0], bool):
        return "yes" if all(values) else "no"
    if len(set(values)) == 1 and isinstance(values[0], int):
        return quantity(values[0])
    mean, half = estimate(values)
    written = "{:.3f}".format if abs(mean) < 10 else quantity
    return written(mean) if half is None or mean >= 1e6 else f"{written(mean)} ± {written(half)}"


def quantity(value: float) -> str:
    """Bytes, tokens and operations: 1,024 or 34.16M."""
    return count(value) if value < 1e6 else number(value)


def as_markdown(table: Mapping[str, Mapping[str, Sequence[float]]], columns: Sequence[str]) -> str:
    """The scores as a table, with the number of seeds that have ended."""
    lines = ["| run | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for run, by_column in table.items():
        num_seeds = max(map(len, by_column.values()), default=0)
        lines.append(
            f"| {run} | {num_seeds} | "
            + " | ".join(interval(by_column[column]) for column in columns)
            + " |"
        )
    return "\n".join(lines)


def timed(
    planned: Sequence[Experiment], found: Mapping[str, Mapping[str, Any]], data: Path | None
) -> dict[str, dict[str, Any]]:
    """Metrics with `seconds` of each stage; where there is no log any more, those that the data file has."""
    known = {(row.run, row.seed): row.seconds for row in read_runs(data)} if data else {}
    return {
        it.name: {
            **found[it.name],
            "seconds": stage_seconds(it.name) or known.get((it.run, it.seed), {}),
        }
        for it in planned
        if it.name in found
    }


def data_rows(
    planned: Sequence[Experiment], found: Mapping[str, Mapping[str, Any]]
) -> list[MethodRun]:
    """What is kept of runs of methods, in the order of the file, the seeds of a run together."""
    references: list[MethodRun] = []
    rows, runs = [], [it.run for it in planned]
    for experiment in sorted(
        (it for it in planned if it.name in found), key=lambda it: (runs.index(it.run), it.seed)
    ):
        metrics = found[experiment.name]
        rows.append(method_run(experiment.run, experiment.seed, metrics, metrics["seconds"]))
        references = references or reference_runs(experiment.seed, metrics)
    return [*references, *rows]


def publish(sweep: Sweep, name: str, data: Path | None) -> None:
    """Print the table, and write the data file whole."""
    planned = list(experiments(sweep, name))
    metrics = {key: metrics_of(commit) for key, commit in ended(planned, experiment_rows()).items()}
    found = timed(planned, metrics, data)
    print(as_markdown(scores(found, sweep, name), list(sweep.metrics)))
    if data is not None:
        rows = [row.model_dump(mode="json") for row in data_rows(planned, found)]
        with new_file(data, is_data) as path:
            path.write_text(
                json.dumps({"rows": rows}, indent=1, sort_keys=True) + "\n", encoding="utf-8"
            )


def check_data(data: Path | None) -> None:
    """Ends the process when something else is where `--data` is to be written."""
    try:
        if data is not None:
            check_file(data, is_data)
    except OutputError as error:
        sys.exit(f"sweep: --data {error}")


def is_data(path: Path) -> bool:
    """Whether a file is what `--data` wrote before."""
    try:
        read_runs(path)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False
    return True


@app.command()
@ending("sweep")
def run(path: SweepFile, smoke: IsSmoke = False, data: DataFile = None) -> None:
    """Run the experiments that are not there yet, one after another, and print the table."""
    check_data(data)
    sweep, name = read_sweep(path, smoke)
    with only_sweep():
        planned = list(experiments(sweep, name))
        done = ended(planned, experiment_rows())
        missing = [it for it in planned if it.name not in done]
        print(f"sweep: {len(done)} of {len(planned)} experiments are there already", flush=True)
        failed = run_all(missing, sweep.stage) if missing else []
    publish(sweep, name, data)
    if failed:
        sys.exit(
            f"sweep: {len(failed)} failed: {', '.join(failed)}; the logs are in .dvc/tmp/sweep-logs"
        )


def run_all(missing: Sequence[Experiment], stage: str) -> list[str]:
    """Run experiments in a copy of the repository; the names of those that failed."""
    copy, start, failed = SweepCopy.prepare(), time.monotonic(), []
    for index, experiment in enumerate(missing):
        spent = time.monotonic() - start
        left = (
            f", about {spent / index * (len(missing) - index) / 60:.0f} minutes left"
            if index
            else ""
        )
        print(f"sweep: {index + 1} of {len(missing)}: {experiment.name}{left}", flush=True)
        if not copy.run(experiment.name, [*settings(experiment), stage]):
            failed.append(experiment.name)
            print(f"sweep: {experiment.name} failed; on with the next", flush=True)
    return failed


@app.command()
@ending("sweep")
def queue(path: SweepFile, smoke: IsSmoke = False) -> None:
    """Queue the experiments that are not there yet, after removing from the queue what failed or was killed."""
    sweep, name = read_sweep(path, smoke)
    planned = list(experiments(sweep, name))
    clear_queue({it.name for it in planned}, experiment_rows())
    rows = experiment_rows()
    waiting = {row["Experiment"] for row in rows if is_unfinished(row)}
    for experiment in planned:
        if experiment.name in waiting or experiment.name in ended([experiment], rows):
            print(f"sweep: {experiment.name} is there already")
            continue
        subprocess.run(
            ["dvc", "exp", "remove", "--quiet", experiment.name],
            check=False,
            stderr=subprocess.DEVNULL,
        )
        if subprocess.run(queue_command(experiment, sweep.stage), check=False).returncode:
            sys.exit(f"sweep: {experiment.name} could not be queued")


@app.command()
@ending("sweep")
def table(path: SweepFile, smoke: IsSmoke = False, data: DataFile = None) -> None:
    """Print the scores of the experiments that have ended."""
    check_data(data)
    publish(*read_sweep(path, smoke), data)


@app.command()
@ending("sweep")
def published() -> None:
    """Print what the paper has in its tables of compared methods, as a document shows it."""
    print(published_markdown(read_published()))


if __name__ == "__main__":
    app()
