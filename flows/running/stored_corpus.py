"""What the jobs on a compressed corpus share: their options, the model that wrote the corpus, and how errors end."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import torch
import typer
from transformers.utils import logging as transformers_logging

from components.compression.identity import check_same_model, find_base
from components.methods.catalogue import method_class
from components.methods.checkpoint import load_compressor
from components.methods.method import Method
from components.methods.method_settings import FWD2BOT
from components.search.query import embed_stored
from components.store.provenance import Provenance, method_of
from components.store.token_store import TokenStore, normalise
from flows.running.endings import ending

Result = TypeVar("Result")
# tokens (pictures, summary tokens, dim) -> (pictures, dim)
Embedder = Callable[[np.ndarray], np.ndarray]
StoreOption = Annotated[Path, typer.Option(help="Folder that `compress` wrote.")]
CompressorOption = Annotated[Path, typer.Option(help="The compressor that wrote it.")]
BaseOption = Annotated[
    str | None,
    typer.Option(
        help="Base model, folder or hub id; otherwise the one the compressor names, beside it or on the hub."
    ),
]
STORE, COMPRESSOR = Path("data/compressed/test"), Path("models/compressor")


def load_model_of(store: TokenStore, compressor: Path, base: str | None) -> Method:
    """The model that wrote the store, on a GPU if there is one. Raises ValueError when the compressor is another."""
    return load_model_by(store.provenance, compressor, base)


def load_model_by(provenance: Provenance, compressor: Path, base: str | None) -> Method:
    """The model that wrote what has this provenance. Raises ValueError when the compressor is another."""
    check_same_model(provenance, compressor)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, provenance.compute["dtype"])
    return load_compressor(
        compressor, find_base(compressor, base), device, dtype, provenance.num_summary_tokens
    )


def embedder_of(provenance: Provenance, compressor: Path, base: str | None) -> Embedder:
    """What stored tokens are searched for. The model is loaded only for a method that needs it for that."""
    if method_class(method_of(provenance) or FWD2BOT).embeds_by_mean:
        return mean_embeddings
    return partial(embed_stored, load_model_by(provenance, compressor, base))


def mean_embeddings(summary_tokens: np.ndarray) -> np.ndarray:
    """L2-normalised means: (pictures, summary tokens, dim) -> (pictures, dim)."""
    return normalise(summary_tokens.mean(axis=1))


def run_job(name: str, job: Callable[[], Result]) -> Result:
    """The result of `job`, without what libraries say to each other; an error ends the process with one line."""
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries to each other
    with ending(name):
        return job()
