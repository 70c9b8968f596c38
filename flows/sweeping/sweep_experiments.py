"""Experiments that DVC knows, whatever commit they started from."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import dvc.api
from ruamel.yaml import YAML

UNFINISHED = ("Queued", "Running", "Failed")  # states of an experiment
REFS = "refs/exps"  # DVC: refs/exps/<first two digits of the commit>/<the others>/<name>
Row = Mapping[str, Any]


def git(*arguments: str, folder: Path | None = None) -> str:
    """Return the output of git. Raises subprocess.CalledProcessError."""
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def experiment_rows() -> list[Row]:
    """Return the experiments of `dvc exp show`, from every commit that has some."""
    # DVC shows the experiments of one commit at a time.
    starts = {git("rev-parse", "HEAD")}
    for ref in git("for-each-ref", "--format=%(refname)", REFS).splitlines():
        parts = ref.split("/")
        if len(parts) == 5:
            starts.add(parts[2] + parts[3])

    # The commits themselves are rows too, without a name.
    return [row for row in dvc.api.exp_show(revs=sorted(starts)) if row.get("Experiment")]


def finished(wanted: Mapping[str, Mapping[str, Any]], rows: Sequence[Row]) -> dict[str, str]:
    """Return {name: commit} of experiments that have ended with the wanted values.

    wanted: {name: {dotted key: value}}. Of several with one name, from different commits, the
    youngest.
    """
    # DVC shows an unfinished one with the scores of the commit that it started from.
    ended = []
    for row in rows:
        if row["Experiment"] in wanted and row.get("State") not in UNFINISHED:
            ended.append(row)
    commits = {str(row["rev"]) for row in ended}
    ages = {commit: int(git("log", "-1", "--format=%ct", commit)) for commit in commits}

    # Younger ones overwrite older ones of the same name.
    found: dict[str, str] = {}
    for row in sorted(ended, key=lambda row: ages[row["rev"]]):
        if has_values(row["rev"], wanted[row["Experiment"]]):
            found[row["Experiment"]] = row["rev"]
    return found


def has_values(commit: str, wanted: Mapping[str, Any]) -> bool:
    """Return whether a commit has these values at dotted keys of params.yaml, or at FILE:KEY.

    Lists may be written as YAML.
    """
    yaml = YAML(typ="safe", pure=True)

    @cache
    def params(file: str) -> Any:
        try:
            return yaml.load(git("show", f"{commit}:{file or 'params.yaml'}"))
        except subprocess.CalledProcessError:  # an older commit without this file
            return None

    # A value that is written as text is read like the file that it stands in.
    for name, value in wanted.items():
        file, _, key = name.rpartition(":")
        expected = yaml.load(value) if isinstance(value, str) else value
        if value_at(params(file), key) != expected:
            return False
    return True


def value_at(tree: Any, key: str) -> Any:
    """Return the value at a dotted key; None where there is none."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def result_of(commit: str, file: Path) -> dict[str, Any] | None:
    """Read a JSON file of an experiment; None if it has none."""
    try:
        return json.loads(git("show", f"{commit}:{file}"))
    except subprocess.CalledProcessError:
        return None


def metrics_of(commit: str) -> dict[str, Any]:
    """Read results/metrics.json of an experiment."""
    return json.loads(git("show", f"{commit}:results/metrics.json"))
