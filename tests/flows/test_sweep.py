"""Runs times seeds as commands, and what ended experiments found as a table."""

import copy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.params import parse_section
from flows.sweep import (
    as_markdown,
    check_headline,
    data_rows,
    over_seeds,
    scores,
    timed,
)
from flows.sweeping.sweep_file import Sweep, experiments, read_sweep, run_arguments
from flows.train import TrainParams
from tests.components.reporting.results import metrics, sweep_metrics

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
SWEEP = Sweep(
    stage="evaluate",
    seeds=(0, 1),
    params={"train.loop.num_steps": 10},
    runs={"plain": None, "Table 6: shared": {"train.adapters.sharing": "shared"}},
    first_seed_only=(),
    metrics={"answers": "compressed.short_answer.accuracy"},
    smoke=None,
)


def answers(share: float) -> dict[str, Any]:
    return {"compressed": {"short_answer": {"accuracy": share}}}


def test_every_run_takes_every_seed_under_a_name_of_its_own() -> None:
    planned = list(experiments(SWEEP, "ablations"))
    assert [it.name for it in planned] == [
        "ablations-plain-0",
        "ablations-table-6-shared-0",
        "ablations-plain-1",
        "ablations-table-6-shared-1",
    ]
    assert run_arguments(planned[-1], "evaluate") == [
        "--name",
        "ablations-table-6-shared-1",
        "-S",
        "train.loop.num_steps=10",
        "-S",
        "train.adapters.sharing=shared",
        "-S",
        "train.seed=1",
        "evaluate",
    ]


def test_a_run_that_takes_the_first_seed_only_has_no_other() -> None:
    sweep = SWEEP.model_copy(update={"first_seed_only": ("plain",)})
    assert [(it.run, it.seed) for it in experiments(sweep, "x")] == [
        ("plain", 0),
        ("Table 6: shared", 0),
        ("Table 6: shared", 1),
    ]


def test_the_table_has_mean_lowest_and_highest_of_what_has_ended() -> None:
    found = {
        "ablations-plain-0": answers(0.4),
        "ablations-plain-1": answers(0.6),
        "another": answers(0.9),
    }
    table = scores(found, SWEEP, "ablations")
    assert table == {"plain": {"answers": [0.4, 0.6]}, "Table 6: shared": {"answers": []}}
    lines = as_markdown(table, ["answers"]).splitlines()
    assert lines[2:] == ["| plain | 2 | 0.500 (0.400 … 0.600) |", "| Table 6: shared | 0 | – |"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.25], "0.250"),
        ([0.927, 0.881, 0.904], "0.904 (0.881 … 0.927)"),
        ([0.5, 0.5, 0.5], "0.500 (0.500 … 0.500)"),
        ([1024, 1024], "1,024"),
        ([9, 9], "9"),
        ([34160221.5, 34160220.0], "34.16M"),
        ([400.0, 420.0], "410 (400 … 420)"),
        ([400.0], "400"),
        ([True, True], "yes"),
        ([False], "no"),
        ([], "–"),
    ],
)
def test_measurements_over_seeds_have_their_ends_and_all_else_has_none(
    values: list[float], text: str
) -> None:
    assert over_seeds(values) == text


def test_data_has_the_base_once_and_the_seeds_of_a_run_together(tmp_path: Path) -> None:
    planned = list(experiments(SWEEP, "ablations"))
    found = {it.name: sweep_metrics("stf", 4) for it in planned[1:]}  # the first has not ended
    found[planned[2].name] |= {system: metrics()[system] for system in ("uncompressed", "blind")}
    rows = data_rows(planned, timed(planned, found, tmp_path / "methods.json"))
    shared = "Table 6: shared"
    assert [(row.run, row.seed) for row in rows] == [
        ("all image tokens", 1),
        ("no picture", 1),
        ("plain", 1),
        (shared, 0),
        (shared, 1),
    ]
    assert [row.bytes_per_picture for row in rows] == [None, None, 1024, 1024, 1024]


def test_each_number_of_tokens_has_its_downsampled_picture_once() -> None:
    planned = list(experiments(SWEEP, "ablations"))
    found = {}
    for number, experiment in enumerate(planned):
        found[experiment.name] = sweep_metrics("stf", 4) | {"seconds": {}}
        few = found[experiment.name] | {"downsampled": metrics()["downsampled"]}
        columns = few["costs"]
        tokens = columns["visual_tokens"] | {"downsampled": 4 if number % 2 else 9}
        found[experiment.name] = few | {"costs": columns | {"visual_tokens": tokens}}
    rows = [row for row in data_rows(planned, found) if row.method == "downsampled"]
    assert sorted(row.run for row in rows) == [
        "downsampled picture, 4 tokens",
        "downsampled picture, 9 tokens",
    ]
    assert rows[0].scores["hard.short_answer"].value == pytest.approx(0.45 / 3)


def test_times_that_nobody_remembers_are_those_of_the_last_data(tmp_path: Path) -> None:
    planned, data = list(experiments(SWEEP, "no-such-sweep")), tmp_path / "methods.json"
    found = {planned[0].name: sweep_metrics("stf", 4)}
    (row,) = data_rows(planned, timed(planned, found, data))
    assert row.seconds == {}
    data.write_text(
        f'{{"rows": [{row.model_copy(update={"seconds": {"train": 12.5}}).model_dump_json()}]}}'
    )
    again = timed(planned, found, data)
    assert data_rows(planned, again)[0].seconds == {"train": 12.5}
    sweep = SWEEP.model_copy(update={"metrics": {"training, s": "seconds.train"}})
    assert scores(again, sweep, "no-such-sweep")["plain"] == {"training, s": [12.5]}


def test_a_smoke_run_has_its_own_names_and_values() -> None:
    sweep, name = read_sweep(ROOT / "sweeps/methods.yaml", smoke=True)
    planned = list(experiments(sweep, name))
    assert [it.name for it in planned] == ["methods-smoke-average-pooling-4-tokens-0"]
    assert {it.overrides["scenes.num_instruct_pictures"] for it in planned} == {60}
    with pytest.raises(ValueError, match="no section `smoke`"):
        read_sweep(ROOT / "sweeps/ablations.yaml", smoke=True)


def test_a_run_that_is_named_but_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.model_copy(update={"first_seed_only": ("plane",)}).model_dump_json())
    with pytest.raises(ValueError, match="plane: named, but not in `runs`"):
        read_sweep(path, smoke=False)


def test_methods_take_three_seeds_at_4_tokens_and_one_at_9() -> None:
    sweep, name = read_sweep(ROOT / "sweeps/methods.yaml", smoke=False)
    seeds: dict[str, list[int]] = {}
    for experiment in experiments(sweep, name):
        seeds.setdefault(experiment.run, []).append(experiment.seed)

    untrained = {run for run, changes in sweep.runs.items() if "none" in (changes or {}).values()}
    for run, taken in seeds.items():
        assert taken == ([0] if ", 9 tokens" in run or run in untrained else [0, 1, 2]), run


def test_the_first_of_the_seeds_is_the_default_run() -> None:
    sweep, name = read_sweep(ROOT / "sweeps/seeds.yaml", smoke=False)
    default = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")["train"]["seed"]
    planned = list(experiments(sweep, name))
    assert [it.overrides for it in planned] == [{"train.seed": seed} for seed in sweep.seeds]
    assert (planned[0].seed, len(planned)) == (default, 3)


def test_headline_scores_are_of_one_run_and_replace_nothing_else(tmp_path: Path) -> None:
    one_run = SWEEP.model_copy(update={"runs": {"default": None}})
    check_headline(tmp_path / "seeds.json", one_run)
    with pytest.raises(ValueError, match="--headline: is for a sweep of one run"):
        check_headline(tmp_path / "seeds.json", SWEEP)
    (tmp_path / "seeds.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match="no earlier result"):
        check_headline(tmp_path / "seeds.json", one_run.model_copy(update={"seeds": (0,)}))


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_every_sweep_changes_params_that_exist(path: Path, smoke: bool) -> None:
    if smoke and read_sweep(path, smoke=False)[0].smoke is None:
        return
    planned = list(experiments(*read_sweep(path, smoke)))
    assert len({it.name for it in planned}) == len(planned)
    for experiment in planned:
        for name in experiment.overrides:
            file, _, key = name.rpartition(":")
            tree = YAML(typ="safe", pure=True).load(ROOT / (file or "params.yaml"))
            for part in key.split("."):
                assert part in tree, key
                tree = tree[part]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_every_run_has_values_that_training_takes(path: Path) -> None:
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for experiment in experiments(*read_sweep(path, smoke=False)):
        changed = copy.deepcopy(params)
        for key, value in experiment.overrides.items():
            if ":" in key:  # of another file
                continue
            *parts, last = key.split(".")
            tree = changed
            for part in parts:
                tree = tree[part]
            tree[last] = yaml.load(value) if isinstance(value, str) else value
        parse_section(changed, "train", TrainParams, str(path))
