"""dvc.yaml, params.yaml, the presets and the code agree."""

import importlib
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest
from ruamel.yaml import YAML

from components.params import SHARED, Params, load_params
from components.presets import load_preset, missing_values, places, preset_sections

ROOT = Path(__file__).parents[1]


def read_yaml(name: str) -> Any:
    return YAML(typ="safe", pure=True).load((ROOT / name).read_text(encoding="utf-8"))


PLACES = ("raw_data", "base_model")  # written at the top of params.yaml


def filled_in(value: Any) -> Any:
    """`${raw_data}` and `${base_model}` replaced by their values in params.yaml, as DVC does."""
    if isinstance(value, dict):
        return {key: filled_in(item) for key, item in value.items()}
    if isinstance(value, list):
        return [filled_in(item) for item in value]
    if not isinstance(value, str):
        return value
    for name in PLACES:
        value = value.replace(f"${{{name}}}", read_yaml("params.yaml")[name])
    return value


PIPELINE = filled_in(read_yaml("dvc.yaml"))
STAGES = PIPELINE["stages"]
PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))


@cache
def import_graph() -> grimp.ImportGraph:
    return grimp.build_graph("flows", "components", cache_dir=None)


def section_of(stage: str) -> str:
    """The section of params.yaml that a stage reads: its own, but `codecs` scores by the rules of `evaluate`."""
    return {"codecs": "evaluate"}.get(stage, stage)


def source_file(module: str) -> Path:
    path = Path(*module.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")


def packages_above(module: str) -> set[str]:
    """Importing a module runs the `__init__` of every package that it lies in."""
    parts = module.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts))}


def imported_files(module: str) -> set[Path]:
    """The source files of a module and of all that it imports, also indirectly."""
    imported = {module, *import_graph().find_upstream_modules(module)}
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
    own = read_yaml("params.yaml")[section]
    shared = [name for name in SHARED if name in field_names(schema_of(stage)) and name not in own]
    assert STAGES[stage]["params"] == [*shared, section]


def field_names(schema: type[Params]) -> set[str]:
    """Names of the fields of a schema and of those inside of it."""
    names = set(schema.model_fields)
    for field in schema.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Params):
            names |= field_names(field.annotation)
    return names


@pytest.mark.parametrize("stage", STAGES)
def test_params_section_fits_the_schema_of_its_flow(stage: str) -> None:
    load_params(section_of(stage), schema_of(stage), ROOT / "params.yaml")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stage", STAGES)
def test_preset_fits_the_schema_of_a_flow(stage: str, preset: str) -> None:
    load_preset(section_of(stage), schema_of(stage), preset, ROOT)


def test_parameter_file_has_a_section_for_every_flow_and_no_other() -> None:
    assert set(read_yaml("params.yaml")) == {*map(section_of, STAGES), *SHARED, *PLACES}


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_holds_only_what_differs(preset: str) -> None:
    own = read_yaml(f"presets/{preset}.yaml")
    extended = own.pop("extends", None)
    below = preset_sections(extended, ROOT) if extended else read_yaml("params.yaml")
    own.pop("baselines", None)
    assert len(missing_values(below, own)) == len(places(own, below))


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


def test_every_value_of_params_yaml_says_its_unit() -> None:
    """By a comment on its line, or by its name."""
    lines = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    values = [line for line in lines if re.fullmatch(r" *(- )?\w+: [^#{]+", line)]
    names = re.compile(
        r" *(- )?(num_\w+|seed|learning_rate|weight_decay|\w+_fraction|\w+_(pixels|tokens|characters|bytes|ms)): "
    )
    assert not [line for line in values if not names.match(line)]


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
