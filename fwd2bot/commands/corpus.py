"""Commands that search a compressed corpus and answer from it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.running.places import COMPRESSOR, STORE
from fwd2bot.commands.app import app, forwards
from fwd2bot.commands.options import (
    BaseOption,
    CompressorOption,
    ImageIdOption,
    JsonOption,
    MaxNewTokensOption,
    StoreOption,
)

PANEL = "Search and answers, from stored tokens alone"
CANDIDATES = 1000  # of the codes, scored exactly: docs/decisions/0024

StoresArgument = Annotated[
    list[Path], typer.Argument(help="Folders that `compress` or `recode` wrote.")
]
IndexArgument = Annotated[Path, typer.Argument(help="Folder of the index.")]


@app.command(rich_help_panel=PANEL)
@forwards("search")
def search(
    text: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    like: Annotated[
        str | None, typer.Option(help="Look for pictures like this one of the corpus.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Many texts: a line each, or JSONL with `text`.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Their hits, .parquet or .jsonl.")] = None,
    k: Annotated[int, typer.Option(help="How many pictures.", min=1)] = 10,
    index: Annotated[
        Path | None, typer.Option(help="Folder that `index build` wrote, instead of a store.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="SQL condition on width, height and --metadata.")
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(help=".parquet or .csv with a column image_id.")
    ] = None,
    maxsim: Annotated[
        int | None,
        typer.Option(help="Order so many of the nearest anew, by MaxSim of their tokens.", min=1),
    ] = None,
    store: StoreOption = STORE,
    compressor: CompressorOption = COMPRESSOR,
    base: BaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find pictures by words or by example.

    Prints the best with their cosine similarity, or the sum of MaxSim.
    """


@app.command(rich_help_panel=PANEL)
@forwards("answer")
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    image_id: ImageIdOption,
    store: StoreOption = STORE,
    compressor: CompressorOption = COMPRESSOR,
    base: BaseOption = None,
    max_new_tokens: MaxNewTokensOption = 32,
    as_json: JsonOption = False,
) -> None:
    """Answer a question about one compressed picture."""


@app.command("answer-corpus", rich_help_panel=PANEL)
@forwards("answer_corpus")
def answer_corpus(
    questions: Annotated[
        Path,
        typer.Argument(
            help=".jsonl, .csv or .parquet with question, image_id and, if you like, question_id."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="File for the answers, .jsonl or .parquet.")],
    store: StoreOption = STORE,
    compressor: CompressorOption = COMPRESSOR,
    base: BaseOption = None,
    every_picture: Annotated[
        bool,
        typer.Option(
            "--every-picture", help="Ask every question about every picture of the store."
        ),
    ] = False,
    max_new_tokens: MaxNewTokensOption = 32,
    temperature: Annotated[
        float, typer.Option(help="0: the likeliest tokens; above: drawn ones.", min=0)
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Draw from the likeliest tokens of this share.", min=1e-6, max=1)
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Questions decoded together.", min=1)] = 256,
    rows_per_piece: Annotated[
        int, typer.Option(help="Questions that a kill may cost, per worker.", min=1)
    ] = 1024,
    num_workers: Annotated[int, typer.Option(help="Each holds a model.", min=1)] = 1,
    cpus_per_worker: Annotated[int, typer.Option(help="Also threads of the model.", min=1)] = 1,
    gpus_per_worker: Annotated[int, typer.Option(help="0 or 1.", min=0, max=1)] = 0,
) -> None:
    """Answer many questions about compressed pictures."""


index_app = typer.Typer(
    help="Make, extend and check an index that `search --index` reads.", no_args_is_help=True
)
app.add_typer(index_app, name="index", rich_help_panel=PANEL)


@index_app.command("build")
@forwards("index", "build_and_say")
def index_build(
    stores: StoresArgument,
    index: IndexArgument,
    kind: Annotated[Literal["exact", "approximate"], typer.Option(help="How it is searched.")] = (
        "exact"
    ),
    candidates: Annotated[
        int, typer.Option(help="Of an approximate index: pictures scored exactly per query.", min=1)
    ] = CANDIDATES,
    compressor: CompressorOption = COMPRESSOR,
    base: BaseOption = None,
) -> None:
    """Make an index of stores, or make it anew."""


@index_app.command("add")
@forwards("index", "add_and_say")
def index_add(
    index: IndexArgument,
    stores: StoresArgument,
    compressor: CompressorOption = COMPRESSOR,
    base: BaseOption = None,
) -> None:
    """Take the files of stores that an index does not hold yet."""


@index_app.command("verify")
@forwards("index", "verify_and_say")
def index_verify(index: IndexArgument) -> None:
    """Compare every byte of an index with its manifest."""


@app.command("export-vllm", rich_help_panel=PANEL)
@forwards("export_vllm")
def export_vllm(
    output: Annotated[
        Path, typer.Argument(help="Folder for the export; new, empty, or an earlier export.")
    ],
    question: Annotated[str, typer.Argument(help="What the example request asks.")],
    image_id: ImageIdOption,
    store: StoreOption = STORE,
    compressor: CompressorOption = COMPRESSOR,
    base: BaseOption = None,
    max_new_tokens: MaxNewTokensOption = 32,
) -> None:
    """Export a compressor for vLLM, with a request about a stored picture."""
