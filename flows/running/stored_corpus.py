"""The model of a compressed corpus, for the jobs that search it and answer from it."""

import warnings
from functools import partial
from pathlib import Path

from transformers.utils import logging as transformers_logging

from components.compression.stored_model import load_model_of
from components.search.query import Embedder, embedder_of
from components.store.provenance import Provenance


def quiet_libraries() -> None:
    """Keep progress bars and deprecation warnings of libraries off the terminal."""
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)


def embedder(provenance: Provenance, compressor: Path, base: str | None) -> Embedder:
    """Return an embedder of stored tokens; the model is loaded only if the method needs it."""
    return embedder_of(provenance, partial(load_model_of, provenance, compressor, base))
