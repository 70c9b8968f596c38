"""Presets: the values of `params.yaml` that differ for another model or cluster.

A preset is a YAML file of the same shape as `params.yaml`. Two keys are its own: `extends` names
another preset, some values of which it changes; `baselines` holds values of the compared methods,
by name, for `components/baselines/NAME.yaml`.
"""

import difflib
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml.comments import CommentedSeq

from components.params import ParamsError, Schema, parse_section, read_sections

BASELINES, EXTENDS = "baselines", "extends"


class Change(NamedTuple):
    """One value that a preset sets: its place (`train.loop.num_steps`), and the value it had."""

    place: str
    before: Any
    after: Any


def find_preset(name: str, folder: Path) -> Path:
    """Return the file of a preset. Raises ParamsError, which lists the presets of the folder."""
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:  # a path is no name
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ParamsError(f"{folder}: there is no preset {name!r}, only {', '.join(names)}{hint}")
    return folder / f"{name}.yaml"


def read_preset(name: str, folder: Path) -> dict[str, Any]:
    """Return the values of a preset, together with the presets it extends.

    Raises ParamsError: there is no such preset, its file holds no sections, or it extends itself.
    """
    chain: list[dict[str, Any]] = []
    seen: list[str] = []
    wanted: Any = name
    while wanted is not None:
        if not isinstance(wanted, str) or wanted in seen:
            raise ParamsError(
                f"{folder}: preset {seen[-1]} extends {wanted!r}; name another preset"
            )
        seen.append(wanted)
        chain.append(read_sections(find_preset(wanted, folder)))
        wanted = chain[-1].pop(EXTENDS, None)

    values: dict[str, Any] = {}
    for preset in reversed(chain):  # the one that was asked for wins
        values = _joined(values, preset)
    baselines = values.get(BASELINES, {})
    if not isinstance(baselines, dict):
        raise ParamsError(f"{folder}: {BASELINES} of preset {name} is no mapping of methods")
    for method, settings in baselines.items():
        if not isinstance(settings, dict):
            raise ParamsError(f"{folder}: {BASELINES}.{method} of preset {name} is no mapping")
    return values


def preset_sections(name: str, root: Path) -> dict[str, Any]:
    """Return the sections of `params.yaml` below `root` as a preset changes them."""
    sections = read_sections(root / "params.yaml")
    preset = read_preset(name, root / "presets")
    preset.pop(BASELINES, None)
    lay_over(sections, preset)
    return sections


def load_preset(section: str, schema: type[Schema], name: str, root: Path) -> Schema:
    """Read one section of `params.yaml` below `root` as a preset changes it."""
    return parse_section(preset_sections(name, root), section, schema, f"presets/{name}.yaml")


def _joined(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two presets; the second one wins."""
    joined = dict(values)
    for key, value in more.items():
        is_in_both = isinstance(value, Mapping) and isinstance(joined.get(key), Mapping)
        joined[key] = _joined(joined[key], value) if is_in_both else value
    return joined


def lay_over(
    values: MutableMapping[str, Any], preset: Mapping[str, Any], place: str = ""
) -> list[Change]:
    """Put the values of a preset in place of others, key by key, and return the changes.

    A mapping that shares no key with the one it replaces takes its place as a whole, as the sources
    of `curate` do. Raises ParamsError for a key that the values do not have.
    """
    changes: list[Change] = []
    for key, after in preset.items():
        here = f"{place}{key}"
        if key not in values:
            raise ParamsError(f"{here}: the preset sets a key that the parameter file lacks")

        before = values[key]
        if _share_keys(before, after):
            changes += lay_over(before, after, f"{here}.")
        elif not _is_same(before, after):
            values[key] = _in_style(after, before)
            changes.append(Change(here, before, after))
    return changes


def preset_values(
    values: Mapping[str, Any], preset: Mapping[str, Any], place: str = ""
) -> list[Change]:
    """List all that a preset sets, each with the value that a parameter file has there."""
    found: list[Change] = []
    for key, after in preset.items():
        here = f"{place}{key}"
        before: Any = values.get(key)
        if _share_keys(before, after):
            found += preset_values(before, after, f"{here}.")
        else:
            found.append(Change(here, before, after))
    return found


def missing_values(values: Mapping[str, Any], preset: Mapping[str, Any]) -> list[Change]:
    """List the values of a preset that a parameter file does not have (any more)."""
    return [it for it in preset_values(values, preset) if not _is_same(it.before, it.after)]


def _is_same(before: Any, after: Any) -> bool:
    """Return whether two values are equal for a strict reader, to whom 1, 1.0 and true differ."""
    return before == after and _kind(before) is _kind(after)


def _kind(value: Any) -> type:
    """Return the plain type of a number, which a YAML library may have subclassed."""
    plain = (bool, int, float)  # in this order: a boolean is an integer to Python
    return next((kind for kind in plain if isinstance(value, kind)), object)


def _in_style(after: Any, before: Any) -> Any:
    """Return a list as the one that it replaces is written: `[a, b]`, or one item per line.

    An empty list has no lines to be written in.
    """
    if not (isinstance(before, CommentedSeq) and isinstance(after, list) and after):
        return after
    styled = CommentedSeq(after)
    if before.fa.flow_style():
        styled.fa.set_flow_style()
    else:
        styled.fa.set_block_style()
    return styled


def _share_keys(before: Any, after: Any) -> bool:
    """Return whether two values are mappings of the same kind, which have a key in common."""
    both = isinstance(before, Mapping) and isinstance(after, Mapping)
    return both and bool(before.keys() & after.keys())
