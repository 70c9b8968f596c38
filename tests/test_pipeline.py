"""dvc.yaml, params.yaml, the presets and the code agree."""

import importlib
import json
import re
import shlex
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import grimp
import pytest
from ruamel.yaml import YAML

from components.methods.catalogue import method_module, method_names, place_of
from components.methods.method_settings import FWD2BOT
from components.params import SHARED, Params, load_params, load_whole
from components.presets import (
    lay_over,
    load_preset,
    missing_values,
    preset_sections,
    preset_values,
    read_preset,
)

ROOT = Path(__file__).parents[1]


def read_yaml(name: str) -> Any:
    return YAML(typ="safe", pure=True).load((ROOT / name).read_text(encoding="utf-8"))


PLACES = ("raw_data", "base_model")  # written at the top of params.yaml
CATALOGUE, FWD2BOT_MODULE = "components.methods.catalogue", "components.methods.fwd2bot"
BASELINES = [name for name in method_names() if name != FWD2BOT]


def filled_in(value: Any, params: dict[str, Any]) -> Any:
    """Fill in `${dotted.key}` from the params, as DVC does."""
    if isinstance(value, dict):
        return {filled_in(key, params): filled_in(item, params) for key, item in value.items()}
    if isinstance(value, list):
        return [filled_in(item, params) for item in value]
    if not isinstance(value, str):
        return value

    def value_of(match: re.Match[str]) -> str:
        return reduce(getitem, match[1].split("."), params)

    return re.sub(r"\$\{([\w.]+)\}", value_of, value)


PIPELINE = filled_in(read_yaml("dvc.yaml"), read_yaml("params.yaml"))
STAGES = PIPELINE["stages"]
CHOSEN = read_yaml("params.yaml")["train"]["method"]["name"]
PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))


@cache
def import_graph() -> grimp.ImportGraph:
    return grimp.build_graph("flows", "components", cache_dir=None)


def section_of(stage: str) -> str:
    """The section of params.yaml that a stage reads; `codecs` scores by the rules of `evaluate`."""
    return {"codecs": "evaluate"}.get(stage, stage)


def settings_file(stage: str) -> str:
    """The file of a stage's section; the demo's base, made once, has one of its own."""
    return "flows/pretrain.yaml" if stage == "pretrain" else "params.yaml"


def source_file(module: str) -> Path:
    path = Path(*module.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")


def packages_above(module: str) -> set[str]:
    """Importing a module runs the `__init__` of every package that it lies in."""
    parts = module.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts))}


def imported_files(module: str) -> set[Path]:
    """The source files of a module and of all that it imports, also indirectly.

    What imports the catalogue loads the method that it names, Fwd2Bot.
    """
    imported = {module, *import_graph().find_upstream_modules(module)}
    if CATALOGUE in imported:
        imported |= {FWD2BOT_MODULE, *import_graph().find_upstream_modules(FWD2BOT_MODULE)}
    return {source_file(part) for name in imported for part in (name, *packages_above(name))}


def written_paths(stage: str, *keys: str) -> list[Path]:
    """Paths of the deps, outs or metrics of a stage, without their options."""
    entries = [entry for key in keys for entry in STAGES[stage].get(key, [])]
    return [Path(next(iter(entry)) if isinstance(entry, dict) else entry) for entry in entries]


def schema_of(stage: str) -> type[Params]:
    """`<Stage>Params` of the flow."""
    return getattr(
        importlib.import_module(f"flows.{stage}"), f"{section_of(stage).capitalize()}Params"
    )


@pytest.mark.parametrize("stage", STAGES)
def test_stage_deps_cover_every_module_its_flow_imports(stage: str) -> None:
    files = imported_files(f"flows.{stage}")
    deps = written_paths(stage, "deps")
    assert not sorted(
        str(file) for file in files if not any(file.is_relative_to(dep) for dep in deps)
    )


def test_the_base_of_table_13_depends_on_every_module_that_makes_it() -> None:
    deps = [Path(dep) for dep in read_yaml("sweeps/bare/dvc.yaml")["stages"]["base"]["do"]["deps"]]
    files = imported_files("flows.pretrain") | imported_files("flows.graft")
    assert not sorted(
        str(file) for file in files if not any(file.is_relative_to(dep) for dep in deps)
    )


@pytest.mark.parametrize("stage", STAGES)
def test_stage_deps_name_no_code_that_its_flow_does_not_import(stage: str) -> None:
    files = imported_files(f"flows.{stage}")
    code = [dep for dep in written_paths(stage, "deps") if dep.parts[0] in ("flows", "components")]
    assert not sorted(
        str(dep) for dep in code if not any(file.is_relative_to(dep) for file in files)
    )


@pytest.mark.parametrize("stage", STAGES)
def test_stage_runs_the_flow_of_its_name_with_paths_that_dvc_knows(stage: str) -> None:
    python, option, module, *paths = shlex.split(STAGES[stage]["cmd"])
    assert (python, option, module) == ("python", "-m", f"flows.{stage}")
    known = written_paths(stage, "deps", "outs", "metrics", "plots")
    known.append(Path(settings_file(stage)))
    undeclared = [
        path for path in paths if not any(Path(path) == k or k.is_relative_to(path) for k in known)
    ]
    # Timings differ from run to run (decision 0008); an unfinished run keeps its checkpoints in the
    # cache (0011).
    assert not [
        path for path in undeclared if "timings" not in path and Path(path).parts[0] != ".cache"
    ]
    outputs = written_paths(stage, "outs", "metrics", "plots")
    assert not [str(out) for out in outputs if not any(out.is_relative_to(path) for path in paths)]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_its_params_section_and_on_the_shared_blocks_it_reads(stage: str) -> None:
    section = section_of(stage)
    own = read_yaml(settings_file(stage))[section]
    shared = [name for name in SHARED if name in field_names(schema_of(stage)) and name not in own]
    whole = [{f"components/{CHOSEN}.yaml": None}] if stage == "train" else []
    written = (
        section if settings_file(stage) == "params.yaml" else {settings_file(stage): [section]}
    )
    assert STAGES[stage]["params"] == [*shared, written, *whole]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_the_method_that_is_chosen_and_on_no_other(stage: str) -> None:
    """A change of a file in components/baselines leaves every stage as it is."""
    deps = written_paths(stage, "deps")
    loads_methods = source_file(CATALOGUE) in imported_files(f"flows.{stage}")
    assert (Path(f"components/{CHOSEN}.py") in deps) == loads_methods
    baselines = Path("components/baselines")
    assert not [dep for dep in deps if dep.is_relative_to(baselines) or dep in baselines.parents]


@pytest.mark.parametrize("name", BASELINES)
def test_stage_deps_cover_what_a_baseline_imports_when_it_is_chosen(name: str) -> None:
    params = read_yaml("params.yaml")
    params["train"]["method"]["name"] = place_of(name)
    stages = filled_in(read_yaml("dvc.yaml"), params)["stages"]
    files = imported_files(f"components.{place_of(name).replace('/', '.')}")
    for stage in (stage for stage, it in stages.items() if "components/methods" in it["deps"]):
        # the package is a docstring, which every baseline shares
        deps = [*map(Path, stages[stage]["deps"]), Path("components/baselines/__init__.py")]
        assert f"components/baselines/{name}.py" in stages[stage]["deps"]
        assert not [file for file in files if not any(map(file.is_relative_to, deps))]
    assert {f"components/baselines/{name}.yaml": None} in stages["train"]["params"]


def test_every_baseline_has_a_settings_file_and_every_settings_file_a_baseline() -> None:
    files = {path.stem for path in (ROOT / "components/baselines").glob("*.yaml")}
    assert files == set(BASELINES)


@pytest.mark.parametrize("name", method_names())
def test_settings_of_a_method_fit_its_schema_which_has_no_defaults(name: str) -> None:
    schema = method_module(name).settings
    load_whole(ROOT / f"components/{place_of(name)}.yaml", schema)
    assert not sorted(fields_with_default(schema))


@pytest.mark.parametrize("preset", PRESETS)
def test_values_that_a_preset_has_for_baselines_fit_their_schemas(preset: str) -> None:
    for name, values in read_preset(preset, ROOT / "presets").get("baselines", {}).items():
        settings = read_yaml(f"components/baselines/{name}.yaml")
        assert len(missing_values(settings, values)) == len(preset_values(settings, values)), name
        lay_over(settings, values)
        method_module(name).settings.model_validate_json(json.dumps(settings))


def field_names(schema: type[Params]) -> set[str]:
    """Names of the fields of a schema and of those inside of it."""
    names = set(schema.model_fields)
    for field in schema.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Params):
            names |= field_names(field.annotation)
    return names


@pytest.mark.parametrize("stage", STAGES)
def test_params_section_fits_the_schema_of_its_flow(stage: str) -> None:
    load_params(section_of(stage), schema_of(stage), ROOT / settings_file(stage))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stage", [name for name in STAGES if name != "pretrain"])
def test_preset_fits_the_schema_of_a_flow(stage: str, preset: str) -> None:
    load_preset(section_of(stage), schema_of(stage), preset, ROOT)


def test_parameter_file_has_a_section_for_every_flow_and_no_other() -> None:
    sections = {section_of(stage) for stage in STAGES if settings_file(stage) == "params.yaml"}
    assert set(read_yaml("params.yaml")) == {*sections, *SHARED, *PLACES}


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_holds_only_what_differs(preset: str) -> None:
    own = read_yaml(f"presets/{preset}.yaml")
    extended = own.pop("extends", None)
    below = preset_sections(extended, ROOT) if extended else read_yaml("params.yaml")
    own.pop("baselines", None)
    assert len(missing_values(below, own)) == len(preset_values(below, own))


def test_there_are_presets() -> None:
    assert PRESETS


@pytest.mark.parametrize("stage", STAGES)
def test_schema_has_no_hidden_defaults(stage: str) -> None:
    assert not sorted(fields_with_default(schema_of(stage)))


def fields_with_default(schema: type[Params]) -> set[str]:
    own = {
        f"{schema.__name__}.{name}"
        for name, field in schema.model_fields.items()
        if not field.is_required()
    }
    nested = [f.annotation for f in schema.model_fields.values()]
    return own.union(
        *(fields_with_default(s) for s in nested if isinstance(s, type) and issubclass(s, Params))
    )


@pytest.mark.parametrize(
    "file",
    [
        "params.yaml",
        "flows/pretrain.yaml",
        *(f"components/{place_of(name)}.yaml" for name in method_names()),
    ],
)
def test_every_value_says_its_unit(file: str) -> None:
    """By a comment on its line, or by its name."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    values = [line for line in lines if re.fullmatch(r" *(- )?\w+: [^#{]+", line)]
    names = re.compile(
        r" *(- )?(num_\w+|seed|learning_rate|weight_decay|\w+_fraction"
        r"|\w+_(pixels|tokens|characters|bytes|ms)): "
    )
    assert not [line for line in values if not names.match(line)]


def test_one_small_file_is_all_that_dvc_shows_of_the_scores() -> None:
    """`dvc exp show` has a column for every number of a metric."""
    metrics = [metric for stage in STAGES.values() for metric in stage.get("metrics", [])]
    assert metrics == [{"results/headline.json": {"cache": False}}]
    assert {"results/metrics.json": {"cache": False}} in STAGES["evaluate"]["outs"]
    assert {"results/codecs.json": {"cache": False}} in STAGES["codecs"]["outs"]


def test_plots_lie_inside_outputs() -> None:
    outputs = [
        path for stage in STAGES for path in written_paths(stage, "outs", "metrics", "plots")
    ]
    files = [path for path, _ in plotted_columns()]
    assert files
    assert not [
        path for path in files if not any(Path(path).is_relative_to(out) for out in outputs)
    ]


def test_plots_are_no_keys_that_dvc_looks_for_in_the_cache() -> None:
    assert not [
        plot for plot in PIPELINE["plots"] if not isinstance(plot, dict) or "/" in next(iter(plot))
    ]


def plotted_columns() -> list[tuple[str, str]]:
    """File and columns of every axis of a plot that names a file."""
    axes = [
        axis
        for plot in PIPELINE["plots"]
        for values in plot.values()
        for axis in (values["x"], values["y"])
    ]
    return [item for axis in axes if isinstance(axis, dict) for item in axis.items()]


def test_pretrain_is_frozen_and_its_output_is_in_git_not_in_the_cache() -> None:
    assert STAGES["pretrain"]["frozen"] is True
    assert STAGES["pretrain"]["outs"] == [{"models/tiny-llava": {"cache": False}}]
