"""Loader of the compressor that wrote a store, to search it and to answer from it."""

from pathlib import Path

import torch

from components.compression.identity import check_same_model, find_base
from components.methods.checkpoint import load_compressor
from components.methods.method import Method
from components.store.provenance import Provenance


def load_model_of(provenance: Provenance, compressor: Path, base: str | None) -> Method:
    """Load the model that wrote tokens of this provenance, on a GPU if there is one.

    Raises ValueError when the compressor or its base is another.
    """
    check_same_model(provenance, compressor)
    dtype = getattr(torch, provenance.compute["dtype"])
    base = find_base(compressor, base)
    return load_compressor(compressor, base, best_device(), dtype, provenance.num_summary_tokens)


def best_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
