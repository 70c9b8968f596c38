"""Headline scores over seeds: what one command measures, takes from the cache, and refuses."""

import json
from pathlib import Path

import pytest

from flows.sweeping.sweep_headline import by_seed
from tests.flows.sweeping.test_sweep_copy import call, commit, sweep

FILES = {
    "params.yaml": "train:\n  seed: 0\n  steps: 1\n",
    "dvc.yaml": """
stages:
  train:
    cmd: python work.py
    deps: [work.py]
    params: [train]
    outs: [model]
  evaluate:
    cmd: >-
      mkdir -p results && cp model results/metrics.json && cp model results/headline.json
    deps: [model]
    metrics:
      - results/metrics.json: {cache: false}
      - results/headline.json: {cache: false}
""",
    "work.py": """
import json, os, sys
from pathlib import Path
from ruamel.yaml import YAML

train = YAML(typ="safe").load(Path("params.yaml").read_text())["train"]
print("at work", flush=True)
if str(train["seed"]) == os.environ.get("BROKEN"):
    sys.exit("this seed does not work")
scores = {"words": train["seed"] / 4 + train["steps"], "base_words": 2.0}
Path("model").write_text(json.dumps(scores))
""",
    "sweeps/seeds.yaml": """
stage: evaluate
seeds: [0, 1, 2]
params: {}
runs: {default: null}
first_seed_only: []
metrics: {words: words}
smoke: null
""",
    ".gitignore": "/model\n",
}
COMMAND = ("run", "sweeps/seeds.yaml", "--headline", "results/seeds.json")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository in which `dvc repro` has run with the default seed, and is committed."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    commit(tmp_path)
    call(tmp_path, "dvc", "repro", "--quiet")
    return commit_all(tmp_path, "the default run")


def commit_all(folder: Path, message: str) -> Path:
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "--quiet", "-m", message)
    return folder


@pytest.mark.slow
def test_the_default_seed_comes_from_the_cache_and_a_second_command_runs_what_failed(
    repository: Path,
) -> None:
    first = sweep(repository, *COMMAND, expected=1, BROKEN="2")
    assert first.count("at work") == 2  # seeds 1 and 2
    assert "results/seeds.json is not written: without scores: seeds-default-2" in first
    assert not (repository / "results/seeds.json").exists()

    second = sweep(repository, *COMMAND)
    assert "2 of 3 experiments are there already" in second
    assert second.count("at work") == 1
    assert json.loads((repository / "results/seeds.json").read_text()) == {
        "words": [1.0, 1.25, 1.5],
        "base_words": [2.0, 2.0, 2.0],
    }
    assert "| words | 1.250 (1.000 … 1.500) | 2.000 | 62.5 % | 50.0 % |" in second

    written = (repository / "results/seeds.json").read_bytes()
    third = sweep(repository, *COMMAND)
    assert "3 of 3 experiments are there already" in third
    assert "at work" not in third
    assert (repository / "results/seeds.json").read_bytes() == written


@pytest.mark.slow
def test_seeds_of_another_run_than_the_default_one_are_refused(repository: Path) -> None:
    sweep(repository, *COMMAND)
    params = (repository / "params.yaml").read_text().replace("steps: 1", "steps: 2")
    (repository / "params.yaml").write_text(params)
    call(repository, "dvc", "repro", "--quiet")
    commit_all(repository, "more steps")

    refused = sweep(repository, *COMMAND, expected=1)
    names = "seeds-default-0 seeds-default-1 seeds-default-2"
    assert "seeds-default-0: has other scores than results/headline.json" in refused
    assert f"`dvc exp remove {names}`" in refused

    call(repository, "dvc", "exp", "remove", *names.split())
    again = sweep(repository, *COMMAND)
    assert again.count("at work") == 2
    assert json.loads((repository / "results/seeds.json").read_text())["words"] == [2.0, 2.25, 2.5]


def test_a_score_has_its_values_in_the_order_of_the_seeds() -> None:
    found = by_seed({"a-0": {"words": 0.5, "cider": 3.0}, "a-1": {"cider": 2.0, "words": 0.25}})
    assert found == {"words": [0.5, 0.25], "cider": [3.0, 2.0]}


def test_a_score_that_one_seed_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="a-1: not the scores of a-0, they differ in cider"):
        by_seed({"a-0": {"words": 0.5, "cider": 3.0}, "a-1": {"words": 0.25}})
