"""Runs times seeds as commands, and what `dvc exp show` gives as a table."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.sweep import Sweep, as_markdown, experiments, interval, queue_command, read_sweep, scores

ROOT = Path(__file__).parents[2]
SWEEP = Sweep(
    seeds=(0, 1),
    params={"train.loop.num_steps": 10},
    runs={"plain": None, "Table 6: shared": {"train.adapters.sharing": "shared"}},
    metrics={"answers": "compressed.short_answer.accuracy"},
)


def test_every_run_is_queued_with_every_seed_under_a_name_of_its_own() -> None:
    planned = list(experiments(SWEEP, "ablations"))
    assert [it.name for it in planned] == [
        "ablations-plain-0",
        "ablations-table-6-shared-0",
        "ablations-plain-1",
        "ablations-table-6-shared-1",
    ]
    command = "dvc exp run --queue --name ablations-table-6-shared-1 -S train.loop.num_steps=10"
    assert " ".join(queue_command(planned[-1])) == f"{command} -S train.adapters.sharing=shared -S train.seed=1"


def test_the_table_has_means_with_intervals_of_what_has_ended() -> None:
    key = SWEEP.metrics["answers"]
    rows = [
        {"Experiment": None, key: 0.1},
        {"Experiment": "ablations-plain-0", key: 0.4},
        {"Experiment": "ablations-plain-1", key: 0.6},
        {"Experiment": "ablations-table-6-shared-0", key: ""},
        {"Experiment": "another", key: 0.9},
        {"Experiment": "ablations-table-6-shared-1", "State": "Running", key: 0.8},
    ]
    found = scores(rows, SWEEP, "ablations")
    assert found == {"plain": {"answers": [0.4, 0.6]}, "Table 6: shared": {"answers": []}}
    lines = as_markdown(found, ["answers"]).splitlines()
    assert lines[2:] == ["| plain | 2 | 0.500 ± 1.271 |", "| Table 6: shared | 0 | – |"]


def test_a_single_seed_has_no_interval() -> None:
    assert interval([0.25]) == "0.250"
    assert interval([0.5, 0.5, 0.5]) == "0.500 ± 0.000"


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_every_sweep_changes_params_that_exist(path: Path) -> None:
    params = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    names = [it.name for it in experiments(read_sweep(path), path.stem)]
    assert len(set(names)) == len(names)
    for experiment in experiments(read_sweep(path), path.stem):
        for key in experiment.overrides:
            tree = params
            for part in key.split("."):
                assert part in tree, key
                tree = tree[part]
