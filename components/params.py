"""Strict parameters: `params.yaml` in, frozen pydantic models out.

Every value is written in the file and nowhere else: no field of a `Params` class has a default, and
unknown, missing, mistyped and duplicate keys are errors that name the file and the key path.
"""

import datetime
import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML, MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

DEFAULT_PATH = Path("params.yaml")
# Blocks at the top of the file, for every section that has none of its own.
SHARED = ("pictures", "bootstrap")
# Bounds of a parameter file: beyond them it is a mistake, or an attack on the reader.
# nodes: keys and values, counted again behind each alias
MAX_BYTES, MAX_DEPTH, MAX_NODES = 1 << 20, 32, 100_000
STRING_TAG, MERGE_TAG = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
YAML_FAULTS = (
    YAMLError,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    NotImplementedError,
)
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
    """Raised for an unusable parameter file, with a line `file: key.path: fault` for each fault."""


class Params(BaseModel):
    """Base of all parameter models.

    Lists are declared as tuples, so that an instance is immutable all the way down.
    `Params.model_validate(params.model_dump())` gives the same instance back: this is how params
    reach a Ray worker.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Schema = TypeVar("Schema", bound=Params)
Fault = Mapping[str, Any]  # one error as pydantic describes it
Place = tuple[int | str, ...]  # keys and positions from the section down


def load_params(section: str, schema: type[Schema], path: Path | str = DEFAULT_PATH) -> Schema:
    """Read one section of a parameter file.

    Raises ParamsError: the file or section is missing, is not YAML, has duplicate keys, or does not
    fit the schema.
    """
    return parse_section(read_sections(Path(path)), section, schema, str(path))


def parse_section(
    sections: Mapping[str, Any], section: str, schema: type[Schema], file: str
) -> Schema:
    """Check one section of a parameter file against its schema.

    A block of `SHARED` that the section lacks comes from the top of the file. Raises ParamsError,
    which names the file.
    """
    if section not in sections:
        hint = _hint(section, list(sections))
        raise ParamsError(f"{file}: {section}: the section is missing{hint}")
    if not isinstance(sections[section], dict):
        raise ParamsError(f"{file}: {section}: {sections[section]!r} is not a mapping")
    values = _with_shared(sections[section], schema, sections)
    return _validated(values, schema, file, partial(_place, section, sections[section]))


def load_whole(path: Path, schema: type[Schema]) -> Schema:
    """Read a parameter file that has no sections. Raises ParamsError as `load_params` does."""
    return _validated(read_sections(path), schema, str(path), lambda loc: _join(*loc))


def _validated(
    values: dict[str, Any], schema: type[Schema], file: str, place: Callable[[Place], str]
) -> Schema:
    """Check values against a schema; `place` names the place of a fault in the file."""
    try:  # JSON mode: strict, yet a YAML list may fill a tuple
        return schema.model_validate_json(_as_json(values, file))
    except ValidationError as error:
        lines = [f"{file}: {line}" for line in _explain_all(error, values, place)]
        raise ParamsError("\n".join(lines)) from None


def _with_shared(
    values: Mapping[str, Any], schema: type[Params], sections: Mapping[str, Any]
) -> dict[str, Any]:
    """Add the shared blocks that the schema wants and the values lack, at any depth."""
    filled = dict(values)
    for name, field in schema.model_fields.items():
        kind = field.annotation
        if not (isinstance(kind, type) and issubclass(kind, Params)):
            continue
        if name in SHARED and name in sections:
            filled.setdefault(name, sections[name])
        elif isinstance(filled.get(name), dict):
            filled[name] = _with_shared(filled[name], kind, sections)
    return filled


def _as_json(values: Any, place: str) -> str:
    """Write values as JSON, dates as text. Raises ParamsError."""
    try:
        return json.dumps(values, default=_date_as_text)
    except (TypeError, ValueError) as error:  # bytes, or a number of thousands of digits
        raise ParamsError(f"{place}: {error}") from None


def _date_as_text(value: Any) -> str:
    if isinstance(value, datetime.date):
        return str(value)
    raise TypeError(f"{value!r} is neither text, a number, a list nor a mapping")


def read_yaml(path: Path) -> Any:
    """Read a YAML file, of bounded size and with text as keys.

    Raises ParamsError: it cannot be read, is not YAML, has a key twice or one that is not text, or
    is beyond bounds.
    """
    text = _read_text(path)

    # bounds, then keys, then values: a file that fails a check is not built
    try:
        _check_bounds(text, path)
        nodes = YAML(typ="safe", pure=True).compose(text)
        faults = [f"{path}: {fault}" for fault in _key_faults(nodes, ())]
        if faults:
            raise ParamsError("\n".join(faults))
        return YAML(typ="safe", pure=True).load(text)
    except ParamsError:
        raise
    except YAML_FAULTS as error:  # a date with a month 13 ends in Python's own errors
        raise ParamsError(f"{path}: is not YAML: {_one_line(error)}") from None


def read_sections(path: Path) -> dict[str, Any]:
    """Read the sections of a parameter file. Raises ParamsError, also if they are no mapping."""
    sections = read_yaml(path)
    if not isinstance(sections, dict):
        raise ParamsError(f"{path}: is empty or not a mapping of sections")
    return sections


def _read_text(path: Path) -> str:
    """Read a text file of bounded size. Raises ParamsError."""
    if not path.exists():
        way_out = "run from the root of the repository, or get it back: git checkout params.yaml"
        raise ParamsError(f"{path}: there is no such file; {way_out}")
    if not path.is_file():  # a folder, or a device that never ends
        raise ParamsError(f"{path}: is not a file; get it back: git checkout params.yaml")

    # Size first: a file of gigabytes is not read to be refused.
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ParamsError(f"{path}: has more than {MAX_BYTES} bytes; is it the right file?")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: is not UTF-8 text: {error}") from None
    except OSError as error:
        raise ParamsError(
            f"{path}: cannot be read: {error.strerror}; change its permissions"
        ) from None


def _check_bounds(text: str, path: Path) -> None:
    """Check the size of a YAML text, event by event, before anything is built of it.

    Raises ParamsError, with the line, for deep nesting, an alias inside its own anchor, and aliases
    of aliases.
    """
    sizes: dict[str, int] = {}  # nodes below each anchor
    opened: list[tuple[str | None, int]] = []  # open collections: anchor, nodes before it
    count = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        line = event.start_mark.line + 1
        anchor = getattr(event, "anchor", None)

        # An alias counts as often as it is written.
        if isinstance(event, AliasEvent):
            if anchor in [name for name, _ in opened]:
                raise ParamsError(
                    f"{path}: line {line}: *{anchor} stands inside of what it names; "
                    "write the values"
                )
            count += sizes.get(str(anchor), 1)
        elif isinstance(event, CollectionStartEvent | ScalarEvent):
            count += 1

        # The size of an anchor is known once its collection is closed.
        if isinstance(event, CollectionStartEvent):
            opened.append((anchor, count))
        elif isinstance(event, CollectionEndEvent):
            name, before = opened.pop()
            if name is not None:
                sizes[str(name)] = count - before + 1

        if len(opened) > MAX_DEPTH:
            raise ParamsError(f"{path}: line {line}: is nested more than {MAX_DEPTH} deep")
        if count > MAX_NODES:
            raise ParamsError(
                f"{path}: line {line}: holds more than {MAX_NODES} values, "
                "aliases counted each time"
            )


def _one_line(error: Exception) -> str:
    """Return fault and place on one line; the YAML library spreads them over several."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}{' '.join(str(problem).split())}"


def _key_faults(node: Node | None, loc: tuple[str, ...]) -> list[str]:
    """List keys that occur twice or are not text, with their path and their line, from 1."""
    found: list[str] = []
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            found += _key_faults(item, (*loc, str(index)))

    # The YAML library also finds these, but names no path of keys.
    if isinstance(node, MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = f"(line {key.start_mark.line + 1})"
            if not isinstance(key, ScalarNode):
                fault = f"{_join(*loc)} {line}: a key is a list or a mapping; put text in quotes"
                found.append(fault.lstrip())
                continue
            place = f"{_join(*loc, key.value)} {line}"
            if key.tag not in (STRING_TAG, MERGE_TAG):
                found.append(f"{place}: the key is not text; put it in quotes")
            elif key.value in seen:
                found.append(f"{place}: the key is written twice")
            seen.add(key.value)
            found += _key_faults(value, (*loc, key.value))
    return found


def _explain_all(
    error: ValidationError, values: dict[str, Any], place: Callable[[Place], str]
) -> list[str]:
    """Return a line for each fault of the values, `place.in.the.file: what is wrong`."""
    faults: list[Fault] = []
    for fault in error.errors(include_url=False):
        faults.append({**fault, "loc": _in_file(values, fault["loc"])})
    known = _known_keys(values, faults)
    return [f"{place(fault['loc'])}: {_explain(fault, known)}" for fault in faults]


def _place(section: str, written: Any, loc: Place) -> str:
    """Name the place of a fault as the file has it; a shared block stands at the top.

    `written` is the section as the file has it, without the shared blocks.
    """
    for depth, key in enumerate(loc):
        if isinstance(written, dict) and key in SHARED and key not in written:
            return _join(*loc[depth:])
        is_inside = isinstance(written, dict) and key in written
        written = written[key] if is_inside else None
    return _join(section, *loc)


def _in_file(data: Any, loc: Sequence[int | str]) -> Place:
    """Return a place as the file has it, from pydantic's.

    Pydantic's also has the tag of a union, the value of the mapping's own `format`: it is no key.
    """
    found: list[int | str] = []
    for key in loc:
        if isinstance(data, dict) and key not in data and key in data.values():
            continue
        found.append(key)
        is_item = isinstance(data, list) and isinstance(key, int)
        is_value = isinstance(data, dict) and key in data
        data = data[key] if is_item or is_value else None
    return tuple(found)


def _known_keys(data: dict[str, Any], faults: Sequence[Fault]) -> dict[Place, list[str]]:
    """Return the keys that could stand in place of each unknown one: its known neighbours."""
    unknown = {fault["loc"] for fault in faults if fault["type"] == "extra_forbidden"}
    missing = [fault["loc"] for fault in faults if fault["type"] == "missing"]

    known: dict[Place, list[str]] = {}
    for loc in unknown:
        parent = data
        for key in loc[:-1]:
            parent = parent[key]  # a key of a mapping or a position in a list

        # A misspelt key leaves a missing one beside it, which is the likeliest.
        absent = [str(other[-1]) for other in missing if other[:-1] == loc[:-1]]
        present = [str(key) for key in parent if (*loc[:-1], key) not in unknown]
        known[loc] = absent + present
    return known


def _explain(fault: Fault, known: dict[Place, list[str]]) -> str:
    """Say in one phrase what is wrong."""
    kind, value, context = fault["type"], fault["input"], fault.get("ctx", {})
    if kind == "missing":
        return "the key is missing"
    if kind == "extra_forbidden":
        return f"unknown key{_hint(str(fault['loc'][-1]), known[fault['loc']])}"

    # Values of the wrong type or size, and of choices.
    if kind in BOUNDS:
        return f"{value} is not {BOUNDS[kind]} {next(iter(context.values()))}"
    if kind in TYPES:
        return f"{value!r} is not {TYPES[kind]}"
    if kind in ("literal_error", "enum"):
        return f"{value!r} is not one of {context['expected']}"

    # Sections whose form depends on one of their keys.
    if kind == "union_tag_invalid":
        return f"{context['tag']!r} is not one of {context['expected_tags']}"
    if kind == "union_tag_not_found":
        return f"the key {context['discriminator'].strip(chr(39))} is missing"

    # Messages of this project's own checks are sentences; pydantic's need the value.
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    return f"{value!r}: {fault['msg']}"


def _hint(key: str, known: list[str]) -> str:
    """Suggest the known key that is most like a misspelt one, if any is."""
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _join(*loc: int | str) -> str:
    """Write a place as a path of keys."""
    return ".".join(map(str, loc))
