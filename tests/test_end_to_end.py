"""The whole pipeline on a world of a few pictures: what `make repro` does, in a copy, and after."""

import json
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from flows.sweep import data_rows
from flows.sweeping import sweep_copy
from flows.sweeping.sweep_copy import stage_seconds
from flows.sweeping.sweep_file import experiments, read_sweep
from fwd2bot.commands import app
from tests.repository import ROOT, commit, copy_tracked, environment, run

SWEEP = "sweeps/methods.yaml"
MICRO_BASE = {
    "pretrain.num_tokenizer_scenes": 100,
    "pretrain.tower.num_steps": 2,
    "pretrain.tower.num_warmup_steps": 1,
    "pretrain.tower.batch_size": 4,
    "pretrain.num_steps": 4,
    "pretrain.batch_size": 4,
    "pretrain.validate_every": 2,
}
MICRO = {
    # a base that has learned nothing never ends an answer by itself
    "evaluate.prompts.max_caption_tokens": 8,
    "inspect.max_caption_tokens": 8,
}
LONG_ENOUGH_TO_KILL = {
    "train.loop.num_steps": 40,
    "train.loop.validate_every_steps": 40,
    "train.loop.checkpoint_every_steps": 1,
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Project(NamedTuple):
    """A repository after the first run of its pipeline, which is committed."""

    folder: Path
    said: str  # by `dvc repro`


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """With the tiny world of a sweep's smoke run, micro params, and `pretrain` not frozen."""
    folder = tmp_path_factory.mktemp("project")
    copy_tracked(folder)
    smoke, _ = read_sweep(ROOT / SWEEP, smoke=True)
    # lists are written for the command line of DVC; those of params.yaml stay
    world = {key: value for key, value in smoke.params.items() if not str(value).startswith("[")}
    change(folder / "params.yaml", world | MICRO)
    change(folder / "flows/pretrain.yaml", MICRO_BASE)
    stages = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(stages.replace("    frozen: true\n", ""))

    # DVCLive asks for the last commit
    run(folder, "git", "init", "--quiet")
    commit(folder, "start")
    said = run(folder, "dvc", "repro")
    commit(folder, "first run")
    run(folder, "git", "branch", "first")
    return Project(folder, said)


def change(path: Path, values: dict[str, Any]) -> None:
    """Give dotted keys of a YAML file other values."""
    yaml = YAML()
    tree = yaml.load(path)
    for key, value in values.items():
        *parents, last = key.split(".")
        section = tree
        for part in parents:
            section = section[part]
        section[last] = value
    yaml.dump(tree, path)


def test_every_stage_runs_and_the_second_time_none(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project.folder
    assert project.said.count("Running stage") == 9, project.said[-3000:]
    report = json.loads((folder / "data/curated/report.json").read_text())
    assert all(
        row["rows_in"] == row["rows_kept"] + sum(row["rejects"].values()) for row in report.values()
    )
    metrics = json.loads((folder / "results/metrics.json").read_text())
    for system in ("compressed", "uncompressed", "average_pooled", "downsampled", "blind"):
        assert metrics[system]["short_answer"]["count"] > 0
    assert metrics["compressed"]["retrieval"]["image_to_text"]["count"] == 12
    assert metrics["compressed"]["partial_queries"]["two_object"]["count"] > 12
    (run_of_sweep,) = islice(experiments(*read_sweep(ROOT / SWEEP, smoke=True)), 1)
    rows = data_rows([run_of_sweep], {run_of_sweep.name: metrics | {"seconds": {}}})
    assert [row.method for row in rows] == ["uncompressed", "downsampled", "blind", "fwd2bot"]
    assert any(key.startswith("hard.") for key in rows[-1].scores)
    headline = json.loads((folder / "results/headline.json").read_text())
    shown = json.loads(run(folder, "dvc", "metrics", "show", "--json"))
    assert shown[""]["data"] == {"results/headline.json": {"data": headline}}
    assert "<html" in (folder / "results/report.html").read_text()
    assert "Running stage" not in run(folder, "dvc", "repro")

    store = pq.read_table(sorted((folder / "data/compressed/test").glob("part-*.parquet")))
    image_id = store["image_id"][0].as_py()
    monkeypatch.chdir(folder)
    hits = json.loads(invoke("search", "a red circle", "--k", "3", "--json"))
    assert len(hits) == 3
    assert {hit["image_id"] for hit in hits} <= set(store["image_id"].to_pylist())
    invoke("ask", "--image-id", image_id, "how many objects are there?")


def invoke(*words: str) -> str:
    """What a command prints in this process, in the working folder; it must end well."""
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_an_older_run_comes_back_from_a_remote(project: Project, tmp_path: Path) -> None:
    """The commands of docs/data.md, in a clone with nothing but git and the remote."""
    folder, page = project.folder, Path("results/report.html")
    run(folder, "dvc", "remote", "add", "--default", "storage", str(tmp_path / "remote"))
    commit(folder, "a remote")
    run(folder, "dvc", "push")
    first = (folder / page).read_bytes()

    # the last stage alone: what those before it wrote is in the remote as well
    change(folder / "params.yaml", {"report.queries": ["a yellow star"]})
    assert run(folder, "dvc", "repro").count("Running stage") == 1
    second = (folder / page).read_bytes()
    assert second != first
    commit(folder, "second run")
    run(folder, "dvc", "push")

    run(tmp_path, "git", "clone", "--quiet", str(folder), "clone")
    clone = tmp_path / "clone"
    assert not (clone / "data/curated").exists()
    for revision, content in (("HEAD", second), ("HEAD~1", first)):
        run(clone, "git", "checkout", "--quiet", revision)
        run(clone, "dvc", "pull")
        assert (clone / page).read_bytes() == content
        assert "up to date" in run(clone, "dvc", "status")
        assert "Running stage" not in run(clone, "dvc", "repro")
        shutil.rmtree(clone / "data/evaluation")
        run(clone, "dvc", "checkout")
        assert (clone / "data/evaluation/answers.jsonl").exists()


@pytest.fixture
def clone(project: Project, tmp_path: Path) -> Path:
    """A clone of the first run, with its cache, the params and the frozen stage of this one.

    The sweep ends with the stage that is killed: those behind it are as in any other run.
    """
    run(tmp_path, "git", "clone", "--quiet", "--branch", "first", str(project.folder), "clone")
    folder = tmp_path / "clone"
    run(folder, "dvc", "config", "--local", "cache.dir", str(project.folder / ".dvc/cache"))
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    smoke = YAML(typ="safe").load(folder / SWEEP)["smoke"]["params"]
    change(folder / SWEEP, {"smoke.params": smoke | LONG_ENOUGH_TO_KILL, "stage": "train"})
    commit(folder, "as it is published")
    return folder


def test_a_killed_sweep_of_methods_goes_on_from_its_checkpoint(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real stages in the copy, where every start of a sweep gives all files new times."""
    sweep = ("run", SWEEP, "--smoke")
    command = (sys.executable, "-m", "flows.sweep", *sweep)
    state = clone / sweep_copy.PLACE / ".cache/train"
    kill_in_training(clone, command, state)
    (killed,) = {path.parent.name for path in state.glob("*/UNFINISHED.txt")}

    said = run(clone, *command, PYTHONPATH="")
    assert re.search(r"train: going on from checkpoint step-0000\d+ of an interrupted run", said)
    assert "unfinished work of other runs" not in said
    assert not (state / killed).exists()
    stages = re.findall(r"Running stage '(.+)'", said)
    assert stages == ["train"]  # the world comes from the cache
    (experiment,) = experiments(*read_sweep(clone / SWEEP, smoke=True))
    monkeypatch.chdir(clone)
    assert "1 of 1 experiments are there already" in invoke("sweep", *sweep)
    assert stage_seconds(experiment.name)["train"] > 0


def kill_in_training(folder: Path, command: tuple[str, ...], state: Path) -> None:
    """Start a sweep, and kill it with all its processes after two checkpoints."""
    with (folder.parent / "said.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(PYTHONPATH=""),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while len(list(state.glob("*/step-*/checksums.json"))) < 2:
        assert process.poll() is None, Path(log.name).read_text()[-3000:]
        time.sleep(0.05)
    for member in [*psutil.Process(process.pid).children(recursive=True), process]:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
