"""Arguments and options that several commands share, with help and bounds."""

from pathlib import Path
from typing import Annotated

import typer

CuratedArgument = Annotated[Path, typer.Argument(help="Folder that `curate` wrote.")]
CompressorArgument = Annotated[Path, typer.Argument(help="Folder that `train` wrote.")]
StoreArgument = Annotated[Path, typer.Argument(help="Folder that `compress` or `recode` wrote.")]

ParamsOption = Annotated[Path, typer.Option(help="The parameter file.")]
StoreOption = Annotated[Path, typer.Option(help="Folder that `compress` or `recode` wrote.")]
CompressorOption = Annotated[Path, typer.Option(help="The compressor that wrote the store.")]
BaseOption = Annotated[
    str | None,
    typer.Option(
        help="Base model, folder or hub id; otherwise the one the compressor names, beside it or "
        "on the hub."
    ),
]
ImageIdOption = Annotated[str, typer.Option(help="The picture; `fwd2bot search` prints ids.")]
MaxNewTokensOption = Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)]
NumSummaryTokensOption = Annotated[int, typer.Option(help="Tokens stored per picture.", min=1)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

PARAMS = Path("params.yaml")
