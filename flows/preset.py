"""Job `preset`: write the values of a preset into params.yaml, whose comments stay.

fwd2bot preset                  list the presets
fwd2bot preset llava-1.5-7b
"""

import io
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, RoundTripRepresenter, ScalarNode

import components
from components.files.atomic import write_whole
from components.params import ParamsError, read_sections
from components.presets import BASELINES, Change, lay_over, read_preset

FOLDER = Path("presets")
SETTINGS = Path(components.__file__).parent / "baselines"  # one file per compared method


def apply_preset(name: str, params: Path, settings: Path = SETTINGS) -> list[Change]:
    """Write a preset into the parameter file and into the settings of the compared methods.

    Raises ParamsError before anything is written.
    """
    preset = read_preset(name, FOLDER)
    baselines = preset.pop(BASELINES, {})
    changed = [_laid_over(params, preset, "")]
    for method, values in baselines.items():
        changed.append(_laid_over(settings / f"{method}.yaml", values, f"{method}: "))

    # every file fits: now they are written
    all_changes: list[Change] = []
    for file, text, changes in changed:
        write_whole(file, partial(_write_like, file, text))
        all_changes += changes
    return all_changes


def _write_like(file: Path, text: str, place: Path) -> None:
    """Write a text to a place, with the permissions of a file."""
    place.write_text(text, encoding="utf-8")
    shutil.copymode(file, place)


def _write_null(representer: RoundTripRepresenter, _: None) -> ScalarNode:
    """Write null as the word; the library leaves it out."""
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _laid_over(file: Path, preset: Mapping[str, Any], owner: str) -> tuple[Path, str, list[Change]]:
    """Return a file's text with the values of a preset, its comments kept, and the changes."""
    if not file.is_file():
        raise ParamsError(f"{file}: there is no such file; the preset has values for it")
    read_sections(file)  # bounds and faults in our own words

    # comments, quotes and long lines stay
    yaml = YAML()
    yaml.width = 4096
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(type(None), _write_null)
    values = yaml.load(file.read_text(encoding="utf-8"))
    changes = [change._replace(place=owner + change.place) for change in lay_over(values, preset)]

    text = io.StringIO()
    yaml.dump(values, text)
    return file.resolve(), text.getvalue(), changes  # a link stays a link


def main(name: str | None, params: Path) -> None:
    """Write the values of a preset into params.yaml, and print what changed."""
    if name is None:
        for path in sorted(FOLDER.glob("*.yaml")):
            print(path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# "))
        return

    changes = apply_preset(name, params)
    for change in changes:
        print(f"{change.place}: {change.before} -> {change.after}")
    print(f"preset: {len(changes)} values of {name}; `git diff` shows them, `check` tries them")


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("preset")
