"""Strict parameters: `params.yaml` in, frozen pydantic models out.

Every value is written in the file and nowhere else: no field of a `Params` class has a default, and unknown, missing,
mistyped and duplicate keys are errors that name the file and the key path.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML, MappingNode, Node, SequenceNode
from ruamel.yaml.error import YAMLError

DEFAULT_PATH = Path("params.yaml")
BOUNDS = {"greater_than_equal": "≥", "greater_than": ">", "less_than_equal": "≤", "less_than": "<"}
TYPES = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


class ParamsError(ValueError):
    """The parameter file cannot be used; the message has one line per fault, `file: key.path: what is wrong`."""


class Params(BaseModel):
    """Base of all parameter models. Lists are declared as tuples, so that an instance is immutable all the way down.

    `Params.model_validate(params.model_dump())` gives the same instance back: this is how params reach a Ray worker.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Schema = TypeVar("Schema", bound=Params)
Fault = Mapping[str, Any]  # one error as pydantic describes it


def load_params(section: str, schema: type[Schema], path: Path | str = DEFAULT_PATH) -> Schema:
    """Read one section of a parameter file.

    Raises ParamsError: the file or section is missing, is not YAML, has duplicate keys, or does not fit the schema.
    """
    sections = _read_yaml(Path(path))
    if section not in sections:
        raise ParamsError(f"{path}: {section}: the section is missing{_hint(section, list(sections))}")
    if not isinstance(sections[section], dict):
        raise ParamsError(f"{path}: {section}: {sections[section]!r} is not a mapping")
    try:  # JSON mode: strict, yet a YAML list may fill a tuple
        return schema.model_validate_json(json.dumps(sections[section], default=str))
    except ValidationError as error:
        faults: list[dict[str, Any]] = [
            {**fault, "loc": _in_file(sections[section], fault["loc"])} for fault in error.errors(include_url=False)
        ]
        known = _known_keys(sections[section], faults)
        lines = [f"{path}: {_join(section, *fault['loc'])}: {_explain(fault, known)}" for fault in faults]
        raise ParamsError("\n".join(lines)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        way_out = "run from the root of the repository, or start from a preset: cp presets/demo.yaml params.yaml"
        raise ParamsError(f"{path}: there is no such file; {way_out}") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: is not UTF-8 text: {error}") from None
    try:
        duplicates = _duplicate_keys(YAML(typ="safe", pure=True).compose(text), ())
        if duplicates:
            raise ParamsError("\n".join(f"{path}: {key}: the key is written twice" for key in duplicates))
        sections = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ParamsError(f"{path}: is not YAML: {error}") from None
    if not isinstance(sections, dict):
        raise ParamsError(f"{path}: is empty or not a mapping of sections")
    return sections


def _duplicate_keys(node: Node | None, loc: tuple[str, ...]) -> list[str]:
    """Key paths that occur twice; `line` is counted from 1."""
    found: list[str] = []
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            found += _duplicate_keys(item, (*loc, str(index)))
    if isinstance(node, MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                found.append(f"{_join(*loc, key.value)} (line {key.start_mark.line + 1})")
            seen.add(str(key.value))
            found += _duplicate_keys(value, (*loc, str(key.value)))
    return found


def _in_file(data: Any, loc: Sequence[int | str]) -> tuple[int | str, ...]:
    """A place as the file has it: pydantic also names which kind of mapping it took one for, by its own `format`."""
    found: list[int | str] = []
    for key in loc:
        if isinstance(data, dict) and key not in data and key in data.values():
            continue
        found.append(key)
        is_inside = (isinstance(data, list) and isinstance(key, int)) or (isinstance(data, dict) and key in data)
        data = data[key] if is_inside else None
    return tuple(found)


def _known_keys(data: dict[str, Any], faults: Sequence[Fault]) -> dict[tuple[int | str, ...], list[str]]:
    """For the parent of each unknown key: the keys it may have, as far as the file and the faults show them."""
    unknown = {fault["loc"] for fault in faults if fault["type"] == "extra_forbidden"}
    known: dict[tuple[int | str, ...], list[str]] = {}
    for loc in unknown:
        parent = data
        for key in loc[:-1]:
            parent = parent[key]  # a key of a mapping or a position in a list
        present = [str(key) for key in parent if (*loc[:-1], key) not in unknown]
        missing = [str(f["loc"][-1]) for f in faults if f["type"] == "missing" and f["loc"][:-1] == loc[:-1]]
        known[loc] = missing + present
    return known


def _explain(fault: Fault, known: dict[tuple[int | str, ...], list[str]]) -> str:
    kind, value, context = fault["type"], fault["input"], fault.get("ctx", {})
    if kind == "missing":
        return "the key is missing"
    if kind == "extra_forbidden":
        return f"unknown key{_hint(str(fault['loc'][-1]), known[fault['loc']])}"
    if kind in BOUNDS:
        return f"{value} is not {BOUNDS[kind]} {next(iter(context.values()))}"
    if kind in TYPES:
        return f"{value!r} is not {TYPES[kind]}"
    if kind in ("literal_error", "enum"):
        return f"{value!r} is not one of {context['expected']}"
    if kind == "union_tag_invalid":
        return f"{context['tag']!r} is not one of {context['expected_tags']}"
    if kind == "union_tag_not_found":
        return f"the key {context['discriminator'].strip(chr(39))} is missing"
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    return f"{value!r}: {fault['msg']}"


def _hint(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _join(*loc: int | str) -> str:
    return ".".join(str(part) for part in loc)
