"""The name of a training run: everything that decides its result, and nothing else."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from components.files.code import code_sha256
from components.methods import catalogue
from components.methods.catalogue import choose_method
from components.methods.method_settings import ChosenMethod
from components.params import load_params
from components.training.run_name import run_name
from components.training.training_settings import PLACEMENT, TrainParams
from flows.train import ENTRIES

ROOT = Path(__file__).parents[3]
PARAMS = load_params("train", TrainParams, ROOT / "params.yaml")
SHARED = (
    "components/pictures.py",
    "components/schema.py",
    "components/params.py",
    "components/losses/contrastive.py",
    "components/model/lora.py",
    "components/training/optimizer.py",
    "flows/workers/train_worker.py",
)
BASELINES = sorted((ROOT / "components/baselines").glob("[!_]*.py"))


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the code, which counts instead of the real one."""
    for name in ("components", "flows"):
        shutil.copytree(
            ROOT / name, tmp_path / "code" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    monkeypatch.setattr(catalogue, "code_sha256", partial(code_sha256, root=tmp_path / "code"))
    return tmp_path / "code"


@pytest.fixture
def named(tmp_path: Path) -> Callable[..., str]:
    """The name of a run on a small data set and base, with changes of the params."""
    for name in (
        "curated/samples/train/part-00000.parquet",
        "curated/report.json",
        "base/config.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    def name_of(
        place: Path = tmp_path,
        base: str | None = None,
        chosen: ChosenMethod | None = None,
        **changes: Any,
    ) -> str:
        params = TrainParams.model_validate(PARAMS.model_dump() | changes)
        chosen = chosen or choose_method(params.method)
        (place / "state").mkdir(exist_ok=True)
        base = base or str(place / "base")
        return run_name(params, chosen, place / "curated", base, place / "state", ENTRIES)

    return name_of


def method(name: str) -> dict[str, Any]:
    return {
        "method": PARAMS.method.model_dump() | {"name": f"baselines/{name}"},
        "nested_budgets": (),
        "feature_cache": None,
    }


def change(path: Path) -> None:
    """Another content, with the old times."""
    before = path.stat()
    path.write_text(f"{path.read_text()}\n# changed\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_touch_and_another_place_leave_the_name(
    code: Path, named: Callable[..., str], tmp_path: Path
) -> None:
    first = named()
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        path.touch()
    (tmp_path / "elsewhere").mkdir()
    for name in ("curated", "base"):
        shutil.copytree(tmp_path / name, tmp_path / "elsewhere" / name)
    assert named() == named(tmp_path / "elsewhere") == first


def test_every_module_that_is_used_counts_and_no_other(
    code: Path, named: Callable[..., str]
) -> None:
    names = [named()]
    for module in SHARED:
        change(code / module)
        names.append(named())
    assert len(set(names)) == len(names)
    assert len(BASELINES) == 14
    for other in BASELINES:
        change(code / f"components/baselines/{other.name}")
    for unused in (
        "components/curation/text_filters.py",
        "flows/compress.py",
        "components/drawn_world/world.py",
    ):
        change(code / unused)
    assert named() == names[-1]
    change(code / "components/methods/fwd2bot.py")
    assert named() != names[-1]


def test_the_module_of_a_compared_method_counts_for_it(
    code: Path, named: Callable[..., str]
) -> None:
    def names() -> dict[str, str]:
        return {name: named(**method(name)) for name in ("prumerge", "prumerge_plus", "stf", "e5v")}

    before = names()
    change(code / "components/baselines/prumerge.py")
    after = names()
    assert {name for name in before if before[name] != after[name]} == {"prumerge"}
    change(code / "components/methods/blocks/token_reduction.py")
    of_all = names()
    assert {name for name in before if after[name] != of_all[name]} == {
        "prumerge",
        "prumerge_plus",
        "stf",
    }


def test_a_module_that_methods_share_counts_for_them(code: Path, named: Callable[..., str]) -> None:
    names = ("fwd2bot", "single_forward", "prumerge", "prumerge_plus")
    before = [named(), *(named(**method(name)) for name in names[1:])]
    change(code / "components/methods/fwd2bot.py")
    of_two = [named(), *(named(**method(name)) for name in names[1:])]
    assert [a == b for a, b in zip(before, of_two, strict=True)] == [False, False, True, True]
    change(code / "components/methods/blocks/patch_merging.py")
    of_all = [named(), *(named(**method(name)) for name in names[1:])]
    assert [a == b for a, b in zip(of_two, of_all, strict=True)] == [True, True, False, False]


def test_params_count_but_not_where_it_runs(
    named: Callable[..., str],
) -> None:
    first = named()
    assert named(seed=PARAMS.seed + 1) != first
    assert named(summary_scale=PARAMS.summary_scale * 2) != first
    assert named(num_workers=1, threads_per_worker=7, max_failures=9) == first
    assert {"num_workers", "threads_per_worker", "max_failures"} <= PLACEMENT


def test_the_settings_of_the_method_count(named: Callable[..., str]) -> None:
    names = set()
    for num_neighbours in (4, 8):
        settings = {"num_neighbours": num_neighbours}
        chosen = ChosenMethod(name="prumerge", tuning="trained", settings=settings)
        names.add(named(chosen=chosen, **method("prumerge")))
    assert len(names) == 2


def test_inputs_count_by_what_they_hold(named: Callable[..., str], tmp_path: Path) -> None:
    names = [named()]
    for path in ("curated/samples/train/part-00000.parquet", "base/config.json"):
        change(tmp_path / path)
        names.append(named())
    names += [named(base="hub/model"), named(base="hub/another")]
    names.append(
        named(base="hub/model", backbone=PARAMS.backbone.model_dump() | {"revision": "abc"})
    )
    assert len(set(names)) == len(names)
