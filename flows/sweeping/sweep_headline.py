"""File of the headline scores over seeds: what `--headline` writes.

The first seed is the default one: its scores must be those of results/headline.json, which `dvc
repro` wrote, so that the other seeds are of the same code and values.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.files.outputs import new_file
from components.reporting.seeds_section import is_seeds, read_seeds, seed_rows, seeds_markdown
from flows.sweeping.sweep_experiments import result_of

HEADLINE = Path("results/headline.json")  # {score: value} of one run, by `evaluate`


def write_headline(output: Path, names: Sequence[str], commits: Mapping[str, str]) -> None:
    """Write and print the headline scores of experiments, which are one run with several seeds.

    `names` are in the order of the seeds, the default one first. What has not ended is said, and
    nothing written. Raises ValueError when they are not of the same code and values.
    """
    if missing := [name for name in names if name not in commits]:
        print(f"sweep: {output} is not written: without scores: {', '.join(missing)}", flush=True)
        return
    check_default_run(names, commits)

    values = by_seed({name: headline_of(name, commits) for name in names})
    with new_file(output, is_seeds) as path:
        path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    print(seeds_markdown(seed_rows(read_seeds(output))), flush=True)


def check_default_run(names: Sequence[str], commits: Mapping[str, str]) -> None:
    """Raise ValueError if the first experiment has ended with other scores than `dvc repro`."""
    if not HEADLINE.is_file():
        raise ValueError(f"{HEADLINE}: is not there; `dvc repro evaluate` writes it")
    if names[0] not in commits:
        return

    if headline_of(names[0], commits) != json.loads(HEADLINE.read_bytes()):
        raise ValueError(
            f"{names[0]}: has other scores than {HEADLINE}, so one of the two is of older code or "
            f"values; `dvc repro evaluate`, commit, and {remedy(names)}"
        )


def headline_of(name: str, commits: Mapping[str, str]) -> dict[str, float]:
    """Return {score: value} of an experiment. Raises ValueError if it has none."""
    found = result_of(commits[name], HEADLINE)
    if found is None:
        raise ValueError(f"{name}: has no {HEADLINE}; {remedy([name])}")
    return found


def by_seed(headlines: Mapping[str, Mapping[str, float]]) -> dict[str, list[float]]:
    """Return {score: a value per experiment}. Raises ValueError if one lacks a score."""
    first = next(iter(headlines))
    values: dict[str, list[float]] = {score: [] for score in headlines[first]}
    for name, headline in headlines.items():
        if different := values.keys() ^ headline.keys():
            raise ValueError(
                f"{name}: not the scores of {first}, they differ in "
                f"{', '.join(sorted(different))}; {remedy(list(headlines))}"
            )
        for score, value in headline.items():
            values[score].append(value)
    return values


def remedy(names: Sequence[str]) -> str:
    """Return how experiments are made anew."""
    return f"`dvc exp remove {' '.join(names)}` and the same command make it anew"
