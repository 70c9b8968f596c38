"""Commands of the stages: `dvc repro` runs them with the paths of dvc.yaml."""

from pathlib import Path
from typing import Annotated

import typer

from fwd2bot.commands.app import app, forwards
from fwd2bot.commands.options import (
    BaseOption,
    CompressorArgument,
    CuratedArgument,
    StoreArgument,
)

PANEL = "Stages, which read their section of params.yaml (dvc repro runs them all)"


@app.command(rich_help_panel=PANEL)
@forwards("scenes")
def scenes(output: Annotated[Path, typer.Argument(help="Folder for the world.")]) -> None:
    """Draw the demo world, in the file formats that real downloads come in."""


@app.command(rich_help_panel=PANEL)
@forwards("curate")
def curate(
    raw: Annotated[Path, typer.Argument(help="Folder of the raw data.")],
    output: Annotated[Path, typer.Argument(help="Folder for the tables.")],
) -> None:
    """Check, deduplicate and split the sources into Parquet."""


@app.command(rich_help_panel=PANEL)
@forwards("pretrain")
def pretrain(
    curated: CuratedArgument,
    output: Annotated[Path, typer.Argument(help="Folder for the base model.")],
    params: Annotated[Path, typer.Argument(help="The parameter file.")],
) -> None:
    """Train the tiny base model of the demo world."""


@app.command(rich_help_panel=PANEL)
@forwards("train")
def train(
    curated: CuratedArgument,
    base: Annotated[str, typer.Argument(help="Base model, folder or hub id.")],
    compressor: Annotated[Path, typer.Argument(help="Folder for the result.")],
    metrics: Annotated[Path, typer.Argument(help="Folder for DVCLive files.")],
    timings: Annotated[Path, typer.Argument(help="Folder for what differs from run to run.")],
    state: Annotated[Path, typer.Argument(help="Folder for the checkpoints of unfinished runs.")],
) -> None:
    """Train adapters, summary queries and logit scale."""


@app.command(rich_help_panel=PANEL)
@forwards("compress")
def compress(
    images: Annotated[
        str,
        typer.Argument(
            help="Folder of pictures, Parquet, CSV or JSON lines of places, or tars; path or "
            "s3://…."
        ),
    ],
    compressor: CompressorArgument,
    output: Annotated[
        Path, typer.Argument(help="Folder for the store; new, empty, or with this very store.")
    ],
    base: BaseOption = None,
) -> None:
    """Compress pictures into a store of summary tokens."""


@app.command(rich_help_panel=PANEL)
@forwards("evaluate")
def evaluate(
    curated: CuratedArgument,
    compressor: CompressorArgument,
    store: StoreArgument,
    output: Annotated[Path, typer.Argument(help="Folder for answers, captions and plots.")],
    metrics: Annotated[Path, typer.Argument(help="File for all scores.")],
    headline: Annotated[Path, typer.Argument(help="File for a dozen of them.")],
    timings: Annotated[Path, typer.Argument(help="File for the seconds.")],
) -> None:
    """Answer, search and rank from the stored tokens, and score it."""


@app.command(rich_help_panel=PANEL)
@forwards("codecs")
def codecs(
    curated: CuratedArgument,
    compressor: CompressorArgument,
    store: StoreArgument,
    output: Annotated[Path, typer.Argument(help="File for the scores.")],
) -> None:
    """Compare the codecs: scores of the stored tokens against bytes."""


@app.command(rich_help_panel=PANEL)
@forwards("inspect")
def inspect(
    curated: CuratedArgument,
    compressor: CompressorArgument,
    store: StoreArgument,
    output: Annotated[Path, typer.Argument(help="Folder for the analysis.")],
) -> None:
    """Draw attention, norms of the adapters, and the worth of each summary token."""


@app.command(rich_help_panel=PANEL)
@forwards("report")
def report(
    curated: CuratedArgument,
    pictures: Annotated[Path, typer.Argument(help="Pictures of the store.")],
    store: StoreArgument,
    evaluation: Annotated[Path, typer.Argument(help="Folder that `evaluate` wrote.")],
    metrics: Annotated[Path, typer.Argument(help="Its scores.")],
    codecs: Annotated[Path, typer.Argument(help="File that `codecs` wrote.")],
    inspection: Annotated[Path, typer.Argument(help="Folder that `inspect` wrote.")],
    methods: Annotated[Path, typer.Argument(help="File of a sweep over methods; may be missing.")],
    seeds: Annotated[Path, typer.Argument(help="File of a sweep over seeds; may be missing.")],
    compressor: CompressorArgument,
    base: Annotated[Path, typer.Argument(help="Folder of the base model.")],
    training: Annotated[Path, typer.Argument(help="Metrics of `train`.")],
    page: Annotated[Path, typer.Argument(help="File for the page.")],
) -> None:
    """Write all that was found as one HTML page."""
