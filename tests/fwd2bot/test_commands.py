"""Commands are light to import, complete, and have the arguments that their flows take."""

import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from components.reporting.inputs import Places
from components.store.codecs import CODECS, FITTED
from fwd2bot.commands import COMMANDS, app

ROOT = Path(__file__).parents[2]
FLOWS = sorted(
    path.stem for path in (ROOT / "flows").glob("*.py") if "fwd2bot.commands" in path.read_text()
)
HEAVY = ["torch", "numpy", "ray", "pyarrow", "transformers", "duckdb", "ruamel", "dvc"]


def callbacks(group: typer.Typer = app) -> Iterator[Callable[..., None]]:
    for command in group.registered_commands:
        assert command.callback
        yield command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance
        yield from callbacks(inner.typer_instance)


def forwarded(callback: Callable[..., None]) -> tuple[str, str]:
    """The flow and the function behind a declaration."""
    found = inspect.getclosurevars(callback).nonlocals
    return found["flow"], found["function"]


def options(callback: Callable[..., None]) -> dict[str, Any]:
    """{name: type and bounds} of what has two hyphens."""
    hints = get_type_hints(callback, include_extras=True)
    found = {}
    for name, hint in hints.items():
        if get_origin(hint) is Annotated and isinstance(
            hint.__metadata__[0], typer.models.OptionInfo
        ):
            found[name] = (hint.__origin__, hint.__metadata__[0].min, hint.__metadata__[0].max)
    return found


def test_every_flow_that_runs_has_a_command() -> None:
    assert {forwarded(callback)[0] for callback in callbacks()} == set(FLOWS)


@pytest.mark.parametrize("callback", callbacks(), ids=lambda callback: callback.__name__)
def test_a_flow_takes_what_its_command_declares(callback: Callable[..., None]) -> None:
    flow, function = forwarded(callback)
    module = importlib.import_module(f"flows.{flow}")
    taken = list(inspect.signature(getattr(module, function)).parameters)
    if "places" in taken:  # of `report`: the fields of a tuple
        taken = [*Places._fields, *(name for name in taken if name != "places")]
    assert list(inspect.signature(callback).parameters) == taken


def test_an_option_is_the_same_in_every_command() -> None:
    declared: dict[str, set[Any]] = {}
    for callback in callbacks():
        for name, kind in options(callback).items():
            declared.setdefault(name, set()).add(kind)
    # `plan` has a number of tokens, `recode` may leave it out
    assert {name for name, kinds in declared.items() if len(kinds) > 1} <= {
        "num_summary_tokens",
        "num_workers",
    }


def test_help_and_completion_import_nothing_heavy() -> None:
    code = f"""
import sys
from typer.testing import CliRunner
from fwd2bot.commands import app
for words in ([], ["search"], ["index", "build"], ["report"]):
    assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0
print(sorted(set({HEAVY}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("words", "found"),
    [("se", "search"), ("index b", "build"), ("search --comp", "--compressor")],
)
def test_the_shell_completes_commands_and_options(words: str, found: str) -> None:
    line = f"fwd2bot {words}"
    variables = {
        "_FWD2BOT_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    code = "from fwd2bot.commands import app; app(prog_name='fwd2bot')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True
    )
    assert found in done.stdout.split()


def test_a_flow_started_by_its_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.runs", "list", "tests/fwd2bot"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "runs: 0 unfinished, 0.0 MB\n"), done.stderr
    assert set(COMMANDS) <= set(FLOWS)


def test_help_says_the_exit_status_and_the_codecs() -> None:
    said = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    assert "0 done; 1 failed" in said
    hint = get_type_hints(find_callback("recode"), include_extras=True)["codec"]
    assert all(codec in get_args(hint)[1].help for codec in (*CODECS, FITTED))


def find_callback(name: str) -> Callable[..., None]:
    return next(callback for callback in callbacks() if callback.__name__ == name)


@pytest.mark.parametrize("command", [["train", *"abcdef"], ["check"]])
def test_outside_a_project_one_line_says_so(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert done.output.count("params.yaml: there is no such file; run from the root") == 1
    assert done.output.splitlines()[-1].startswith(f"{command[0]}: params.yaml")


def test_search_and_ask_need_no_project(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = ["--store", str(project / "store"), "--compressor", str(project / "models/compressor")]
    found = CliRunner().invoke(app, ["search", "a red circle", *places, "--k", "2"])
    assert (found.exit_code, len(found.stdout.splitlines())) == (0, 3), found.output
    said = CliRunner().invoke(app, ["ask", "what?", "--image-id", "1.png", *places, "--json"])
    assert said.exit_code == 0, said.output
    assert '"image_id": "1.png", "question": "what?", "answer": ' in said.stdout
