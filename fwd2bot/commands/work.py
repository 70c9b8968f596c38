"""Commands around runs: check, presets, grafts, sweeps, and unfinished work."""

from pathlib import Path
from typing import Annotated

import typer

from fwd2bot.commands.app import app, forwards
from fwd2bot.commands.options import PARAMS, ParamsOption

PANEL = "Runs"

SweepArgument = Annotated[
    Path, typer.Argument(help="A file of sweeps/.", exists=True, dir_okay=False)
]
SmokeOption = Annotated[
    bool, typer.Option("--smoke", help="The few small runs of the section `smoke`.")
]
DataOption = Annotated[
    Path | None, typer.Option(help="Write all scores and costs to this file, too.")
]
HeadlineOption = Annotated[
    Path | None,
    typer.Option(help="Write the headline scores of the only run to this file, a value per seed."),
]


@app.command(rich_help_panel=PANEL)
@forwards("check")
def check(
    params: ParamsOption = PARAMS,
    rows: Annotated[
        int, typer.Option(min=1, help="How many rows of each source are looked at.")
    ] = 64,
) -> None:
    """Look for everything that would stop the pipeline, and list it."""


@app.command(rich_help_panel=PANEL)
@forwards("preset")
def preset(
    name: Annotated[
        str | None, typer.Argument(help="A file of presets/, without .yaml; none: list them.")
    ] = None,
    params: ParamsOption = PARAMS,
) -> None:
    """Write the values of a preset into params.yaml, whose comments stay."""


@app.command(rich_help_panel=PANEL)
@forwards("graft")
def graft(
    base: Annotated[str, typer.Argument(help="A LLaVA, folder or hub id.")],
    language_model: Annotated[
        str,
        typer.Argument(help="A causal language model of the same shape, or a LLaVA around one."),
    ],
    output: Annotated[
        Path, typer.Argument(help="Folder for the result; new, empty, or an earlier graft.")
    ],
) -> None:
    """Replace the language model inside a LLaVA."""


sweep_app = typer.Typer(
    help="Run the experiments of a file in sweeps/, and print their scores.", no_args_is_help=True
)
app.add_typer(sweep_app, name="sweep", rich_help_panel=PANEL)


@sweep_app.command("run")
@forwards("sweep", "run_missing")
def sweep_run(
    path: SweepArgument,
    smoke: SmokeOption = False,
    data: DataOption = None,
    headline: HeadlineOption = None,
) -> None:
    """Run the experiments that are not there yet, one after another, and print the table."""


@sweep_app.command("table")
@forwards("sweep", "table")
def sweep_table(
    path: SweepArgument,
    smoke: SmokeOption = False,
    data: DataOption = None,
    headline: HeadlineOption = None,
) -> None:
    """Print the scores of the experiments that have ended."""


@sweep_app.command("published")
@forwards("sweep", "published")
def sweep_published() -> None:
    """Print what the paper has in its tables of compared methods."""


runs_app = typer.Typer(
    help="List the unfinished work of all commands, and remove what is named.",
    no_args_is_help=True,
)
app.add_typer(runs_app, name="runs", rich_help_panel=PANEL)


@runs_app.command("list")
@forwards("runs", "list_works")
def runs_list(
    root: Annotated[
        Path,
        typer.Argument(help="Folder to look in, with all below it.", exists=True, file_okay=False),
    ] = Path(),
) -> None:
    """Print every folder of unfinished work with its progress, size and age."""


@runs_app.command("discard")
@forwards("runs", "discard_works")
def runs_discard(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `runs list` prints.")],
) -> None:
    """Remove folders of unfinished work for good."""
