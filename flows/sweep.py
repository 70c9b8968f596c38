"""Job `sweep`: the runs of a file in `sweeps/` as DVC experiments, and their scores as one table.

    python -m flows.sweep run sweeps/ablations.yaml     runs what is missing, one after another
    python -m flows.sweep table sweeps/ablations.yaml   prints the scores of those that have ended
    python -m flows.sweep published                     prints the paper's for the compared methods

A sweep is a list of runs, each with the params that it changes, times some seeds. Experiments are
called SWEEP-RUN-SEED; `dvc exp show` lists them. What has ended with the values that the file now
has is left alone, whatever commit it started from; what failed, was killed or has other values is
made anew. `--smoke` takes the runs and values of the file's section `smoke`: does everything work
together? `--data FILE` writes all scores and costs, `--headline FILE` the headline scores of a
sweep of one run, {score: a value per seed}.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.files.outputs import check_file, new_file
from components.files.written import OutputError
from components.reporting.methods_section import MethodRun, method_run, read_runs, reference_runs
from components.reporting.published import published_markdown, read_published
from components.reporting.seeds import spread
from components.reporting.seeds_section import is_seeds
from components.reporting.wording import count, number, score
from flows.sweeping.sweep_copy import SweepCopy, only_sweep, stage_seconds
from flows.sweeping.sweep_experiments import experiment_rows, finished, metrics_of, value_at
from flows.sweeping.sweep_file import Experiment, Sweep, experiments, read_sweep, run_arguments
from flows.sweeping.sweep_headline import check_default_run, write_headline


def ended(planned: Sequence[Experiment], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return {name: commit} of the planned experiments that have ended with their values."""
    wanted = {experiment.name: experiment.overrides for experiment in planned}
    return finished(wanted, rows)


def scores(
    found: Mapping[str, Mapping[str, Any]], sweep: Sweep, name: str
) -> dict[str, dict[str, list[Any]]]:
    """Return {run: {column: a score per seed}} from the metrics of experiments by name.

    An experiment without such a metric adds none.
    """
    table: dict[str, dict[str, list[Any]]] = {}
    for run in sweep.runs:
        table[run] = {column: [] for column in sweep.metrics}

    for experiment in experiments(sweep, name):
        for column, key in sweep.metrics.items():
            value = value_at(found.get(experiment.name, {}), key)
            if isinstance(value, int | float):
                table[experiment.run][column].append(value)
    return table


def over_seeds(values: Sequence[float]) -> str:
    """Write the mean, the lowest and the highest: 0.904 (0.881 … 0.927).

    A single seed stands alone, as do counts and statements, which are no measurement.
    """
    if not values:
        return "–"
    if isinstance(values[0], bool):
        return "yes" if all(values) else "no"
    if len(set(values)) == 1 and isinstance(values[0], int):
        return quantity(values[0])

    # Scores have three decimals; seconds, bytes and operations are long enough without.
    found = spread(values)
    if found.mean >= 1e6:
        return quantity(found.mean)
    return found.text(score if abs(found.mean) < 10 else quantity)


def quantity(value: float) -> str:
    """Write bytes, tokens and operations: 1,024 or 34.16M."""
    return count(value) if value < 1e6 else number(value)


def as_markdown(table: Mapping[str, Mapping[str, Sequence[float]]], columns: Sequence[str]) -> str:
    """Write the scores as a table, with the number of seeds that have ended."""
    lines = ["| run | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for run, by_column in table.items():
        num_seeds = max(map(len, by_column.values()), default=0)
        cells = [run, str(num_seeds)]
        cells += [over_seeds(by_column[column]) for column in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def timed(
    planned: Sequence[Experiment], found: Mapping[str, Mapping[str, Any]], data: Path | None
) -> dict[str, dict[str, Any]]:
    """Add the `seconds` of each stage to metrics.

    Without a log they come from the data file that is there.
    """
    rows = read_runs(data) if data else []
    known = {(row.run, row.seed): row.seconds for row in rows}

    with_seconds: dict[str, dict[str, Any]] = {}
    for experiment in planned:
        name = experiment.name
        if name in found:
            seconds = stage_seconds(name) or known.get((experiment.run, experiment.seed), {})
            with_seconds[name] = {**found[name], "seconds": seconds}
    return with_seconds


def data_rows(
    planned: Sequence[Experiment], found: Mapping[str, Mapping[str, Any]]
) -> list[MethodRun]:
    """Return the rows of the data file, in the order of the sweep, seeds of a run together."""
    runs = [experiment.run for experiment in planned]
    order = sorted(planned, key=lambda it: (runs.index(it.run), it.seed))

    # The systems beside the methods are the same in all runs with as many tokens: the first of
    # each name gives it.
    references: dict[str, MethodRun] = {}
    rows = []
    for experiment in order:
        metrics = found.get(experiment.name)
        if metrics is None:
            continue
        rows.append(method_run(experiment.run, experiment.seed, metrics, metrics["seconds"]))
        for reference in reference_runs(experiment.seed, metrics):
            references.setdefault(reference.run, reference)
    return [*references.values(), *rows]


def publish(sweep: Sweep, name: str, data: Path | None, headline: Path | None) -> None:
    """Print the table, and write the files of scores whole."""
    # Metrics come from the commits of the experiments; nothing needs to be checked out.
    planned = list(experiments(sweep, name))
    commits = ended(planned, experiment_rows())
    metrics = {key: metrics_of(commit) for key, commit in commits.items()}
    found = timed(planned, metrics, data)
    print(as_markdown(scores(found, sweep, name), list(sweep.metrics)))

    if data is not None:
        rows = [row.model_dump(mode="json") for row in data_rows(planned, found)]
        text = json.dumps({"rows": rows}, indent=1, sort_keys=True)
        with new_file(data, is_data) as path:
            path.write_text(text + "\n", encoding="utf-8")
    if headline is not None:
        write_headline(headline, [it.name for it in planned], commits)


def check_data(data: Path | None) -> None:
    """End the process when something else is where `--data` is to be written."""
    try:
        if data is not None:
            check_file(data, is_data)
    except OutputError as error:
        sys.exit(f"sweep: --data {error}")


def is_data(path: Path) -> bool:
    """Return whether `--data` wrote this file before."""
    try:
        read_runs(path)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False
    return True


def check_headline(headline: Path | None, sweep: Sweep) -> None:
    """Raise ValueError when `--headline` has not one run, or something else is at its place."""
    if headline is None:
        return
    if len(sweep.runs) != 1 or sweep.first_seed_only:
        raise ValueError("--headline: is for a sweep of one run with all seeds: sweeps/seeds.yaml")
    check_file(headline, is_seeds)


def run_missing(path: Path, smoke: bool, data: Path | None, headline: Path | None) -> None:
    """Run the experiments that are not there yet, one after another, and print the table."""
    check_data(data)
    sweep, name = read_sweep(path, smoke)
    check_headline(headline, sweep)

    # Two sweeps at a time would share the copy of the repository.
    with only_sweep():
        planned = list(experiments(sweep, name))
        done = ended(planned, experiment_rows())
        missing = [it for it in planned if it.name not in done]
        print(f"sweep: {len(done)} of {len(planned)} experiments are there already", flush=True)
        if headline is not None:
            check_default_run([it.name for it in planned], done)
        failed = run_all(missing, sweep.stage) if missing else []

    # The table first: it is worth having in spite of failures.
    publish(sweep, name, data, headline)
    if failed:
        names = ", ".join(failed)
        sys.exit(f"sweep: {len(failed)} failed: {names}; the logs are in .dvc/tmp/sweep-logs")


def run_all(missing: Sequence[Experiment], stage: str) -> list[str]:
    """Run experiments in a copy of the repository; returns the names of those that failed."""
    copy, start, failed = SweepCopy.prepare(), time.monotonic(), []
    for index, experiment in enumerate(missing):
        # An estimate from the runs so far; the first has none.
        left = ""
        if index:
            each = (time.monotonic() - start) / index / 60
            left = f", about {each * (len(missing) - index):.0f} minutes left"
        print(f"sweep: {index + 1} of {len(missing)}: {experiment.name}{left}", flush=True)

        if not copy.run(experiment.name, run_arguments(experiment, stage)):
            failed.append(experiment.name)
            print(f"sweep: {experiment.name} failed; on with the next", flush=True)
    return failed


def table(path: Path, smoke: bool, data: Path | None, headline: Path | None) -> None:
    """Print the scores of the experiments that have ended."""
    check_data(data)
    sweep, name = read_sweep(path, smoke)
    check_headline(headline, sweep)
    publish(sweep, name, data, headline)


def published() -> None:
    """Print the tables of compared methods of the paper, as a document shows them."""
    print(published_markdown(read_published()))


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("sweep")
