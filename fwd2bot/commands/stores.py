"""Commands about stores: their costs, their size, and their check."""

from pathlib import Path
from typing import Annotated

import typer

from fwd2bot.commands.app import app, forwards
from fwd2bot.commands.options import JsonOption, NumSummaryTokensOption, StoreArgument

PANEL = "Stores"
FIT_PICTURES = 4096  # of a 7B model with 16 tokens they take 3 GB while the codec is fitted


@app.command(rich_help_panel=PANEL)
@forwards("plan")
def plan(
    images: Annotated[float, typer.Option(help="Pictures of the corpus, such as 1e9.", min=1)],
    gpus: Annotated[int, typer.Option(help="GPUs that work at the same time.", min=1)],
    tflops: Annotated[
        float,
        typer.Option(
            help="What a GPU reaches, measured, in 10^12 operations per second.", min=1e-6
        ),
    ],
    price: Annotated[float, typer.Option(help="Of a GPU for an hour, in any currency.", min=0)],
    model: Annotated[
        str, typer.Option(help="llava-1.5-7b, llava-1.5-13b, or the folder of a LLaVA.")
    ] = "llava-1.5-7b",
    num_summary_tokens: NumSummaryTokensOption = 16,
    question_tokens: Annotated[
        int,
        typer.Option(help="Of a prompt without the picture: vicuna_v1, a short question.", min=1),
    ] = 60,
    answer_tokens: Annotated[int, typer.Option(help="Of an answer.", min=1)] = 3,
    rows_per_shard: Annotated[int, typer.Option(help="Pictures per file.", min=1)] = 1024,
    as_json: JsonOption = False,
) -> None:
    """Count what a corpus costs to compress, keep, search and ask."""


@app.command(rich_help_panel=PANEL)
@forwards("recode")
def recode(
    store: StoreArgument,
    output: Annotated[Path, typer.Argument(help="Folder for the new store; new or empty.")],
    codec: Annotated[
        str,
        typer.Option(
            help="One of float32, float16, int8, int4, rotated4, rotated3, rotated2, fitted."
        ),
    ],
    num_summary_tokens: Annotated[
        int | None, typer.Option(help="The first of the tokens; all if not given.")
    ] = None,
    bytes_per_picture: Annotated[
        int | None, typer.Option(help="Of codec fitted, at most.", min=1)
    ] = None,
    fit_of: Annotated[Path | None, typer.Option(help="A store whose fit is taken over.")] = None,
    fit_pictures: Annotated[
        int, typer.Option(help="Pictures that a new fit is made of, at most.")
    ] = FIT_PICTURES,
    num_workers: Annotated[int, typer.Option(help="Files at a time, one CPU each.")] = 1,
) -> None:
    """Write a store in another codec, or with fewer tokens per picture."""


@app.command(rich_help_panel=PANEL)
@forwards("verify")
def verify(
    store: StoreArgument,
    num_threads: Annotated[int, typer.Option(help="Files at a time.", min=1)] = 2,
) -> None:
    """Read every byte of a store; a line for each fault."""
