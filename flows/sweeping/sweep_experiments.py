"""The experiments that DVC knows, whatever commit they started from, and what its queue holds of killed workers.

DVC lists a task whose worker was killed as running for ever: `dvc queue start` does not take it up
again, and `dvc queue remove` does not find it until `dvc queue kill` has made it a failed one.
"""

import json
import subprocess
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import dvc.api
import psutil
from ruamel.yaml import YAML

UNFINISHED = ("Queued", "Running", "Failed")  # states of an experiment
REFS = "refs/exps"  # DVC: refs/exps/<first two digits of the commit>/<the others>/<name>
TASKS = Path(".dvc/tmp/exps/run")  # DVC: <commit of a task>/<the same>.json has its process
Row = Mapping[str, Any]


def git(*arguments: str, folder: Path | None = None) -> str:
    """What git prints. Raises subprocess.CalledProcessError."""
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def experiment_rows() -> list[Row]:
    """The experiments of `dvc exp show`, from every commit that has some."""
    refs = [ref.split("/") for ref in git("for-each-ref", "--format=%(refname)", REFS).splitlines()]
    starts = {ref[2] + ref[3] for ref in refs if len(ref) == 5} | {git("rev-parse", "HEAD")}
    return [row for row in dvc.api.exp_show(revs=sorted(starts)) if row.get("Experiment")]


def is_unfinished(row: Row) -> bool:
    """Waits, runs, or has failed; DVC then shows the scores of the commit that it started from."""
    return row.get("State") in UNFINISHED


def finished(wanted: Mapping[str, Mapping[str, Any]], rows: Sequence[Row]) -> dict[str, str]:
    """{name: commit} of experiments that have ended with the wanted values {name: {dotted key: value}}.

    Of several with one name, from different commits, the youngest.
    """
    commits = {
        str(row["rev"]) for row in rows if row["Experiment"] in wanted and not is_unfinished(row)
    }
    ages = {commit: int(git("log", "-1", "--format=%ct", commit)) for commit in commits}
    found: dict[str, str] = {}
    for row in sorted(
        (row for row in rows if row["rev"] in commits), key=lambda row: ages[row["rev"]]
    ):
        if not is_unfinished(row) and has_values(row["rev"], wanted[row["Experiment"]]):
            found[row["Experiment"]] = row["rev"]
    return found


def has_values(commit: str, wanted: Mapping[str, Any]) -> bool:
    """Whether a commit has these values at dotted keys of params.yaml, or at FILE:KEY; lists may be written as YAML."""
    yaml = YAML(typ="safe", pure=True)

    @cache
    def params(file: str) -> Any:
        try:
            return yaml.load(git("show", f"{commit}:{file or 'params.yaml'}"))
        except subprocess.CalledProcessError:  # an older commit without this file
            return None

    def found(name: str) -> Any:
        file, _, key = name.rpartition(":")
        return value_at(params(file), key)

    return all(
        found(name) == (yaml.load(value) if isinstance(value, str) else value)
        for name, value in wanted.items()
    )


def value_at(tree: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def metrics_of(commit: str) -> dict[str, Any]:
    """results/metrics.json of an experiment."""
    return json.loads(git("show", f"{commit}:results/metrics.json"))


def clear_queue(names: Collection[str], rows: Sequence[Row]) -> None:
    """Take what failed or was killed out of DVC's queue, of the experiments of these names."""
    for row in rows:
        name, state = row["Experiment"], row.get("State")
        if (
            name not in names
            or state not in ("Running", "Failed")
            or (state == "Running" and is_alive(row["rev"]))
        ):
            continue
        if state == "Running":
            subprocess.run(["dvc", "queue", "kill", name], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["dvc", "queue", "remove", name], check=False)


def is_alive(task: str) -> bool:
    """Whether the process of a task is there; one without a process is left for `dvc queue kill` to judge."""
    files = list(TASKS.glob(f"{task}*/*.json"))
    return any(
        psutil.pid_exists(json.loads(file.read_text(encoding="utf-8"))["pid"]) for file in files
    )
