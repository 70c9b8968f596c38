"""Recoding: a store in another codec, or with fewer tokens per picture, from its stored tokens.

With a causal compression pass no summary query sees the ones behind it: the first k of k' tokens
are what a pass with k queries gives. (Whether they say enough is a matter of training:
`train.nested_budgets`.)
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from components.store.codecs import FITTED, FLOATS, Codec, code_type
from components.store.fit import Fit, fit_bytes, fit_directions, quantise_fitted, restore_fitted
from components.store.manifest import Manifest
from components.store.provenance import Provenance, StoreError
from components.store.rejects import Reject
from components.store.shards import EncodedRows, concatenate, encode_rows, no_rows, read_rows
from components.store.store_reader import StoreReader

HELD_OUT = 5  # every fifth picture of a sample measures the fit to the others


class Fitting(NamedTuple):
    """A fit, and what it was made of and measured on."""

    fit: Fit
    num_pictures: int
    num_held_out: int
    error: float  # of the held-out pictures, relative; 0.1 is about that of int4


def fit_codec(
    store: StoreReader, num_summary_tokens: int, num_bytes: int, max_pictures: int
) -> Fitting:
    """Fit codec `fitted`, `num_bytes` per picture, to at most `max_pictures` evenly from a store.

    Raises StoreError for a store that has lost digits already, and ValueError for too few pictures.
    """
    if store.provenance.codec not in FLOATS:
        raise _coarse(store.provenance)

    # Ids often come in groups, so the sample is spread over the whole store.
    sample = store.ids[:: -(-len(store) // max_pictures) or 1]
    tokens = store.tokens(sample)[:, :num_summary_tokens].reshape(len(sample), -1)

    is_held_out = np.arange(len(sample)) % HELD_OUT == HELD_OUT - 1
    fit = fit_directions(tokens[~is_held_out], num_bytes)

    # The error on the pictures of the fit itself would be too low.
    others = tokens[is_held_out]
    restored = restore_fitted(quantise_fitted(others, fit), fit)
    error = np.linalg.norm(restored - others) / np.linalg.norm(others)
    return Fitting(fit, len(sample) - len(others), len(others), float(error))


def recoded_provenance(
    provenance: Provenance, codec: Codec, num_summary_tokens: int, fit: Fit | None = None
) -> Provenance:
    """Return the provenance of the new store. Raises StoreError when the old cannot become it."""
    if not 1 <= num_summary_tokens <= provenance.num_summary_tokens:
        raise StoreError(
            f"{num_summary_tokens} tokens: the store has {provenance.num_summary_tokens} per "
            "picture"
        )
    if num_summary_tokens < provenance.num_summary_tokens and not has_prefixes(provenance):
        raise StoreError(
            "the tokens of this store see each other, or are each for a part of the picture: none "
            "can be left out; compress the pictures again with compress.num_summary_tokens, if the "
            "model can make fewer"
        )

    # Digits that are lost cannot be had back by another codec.
    if provenance.codec not in FLOATS and (codec != provenance.codec or codec == FITTED):
        raise _coarse(provenance)
    code_type(codec, num_summary_tokens, provenance.dim, fit)

    fit_sha256 = hashlib.sha256(fit_bytes(fit)).hexdigest() if fit else None
    changed = {"codec": codec, "num_summary_tokens": num_summary_tokens, "fit_sha256": fit_sha256}
    return provenance.model_copy(update=changed)


def has_prefixes(provenance: Provenance) -> bool:
    """Return whether the first k tokens equal the tokens of a pass with k queries.

    Only Fwd2Bot under a causal mask has such tokens.
    """
    model = provenance.model
    return (
        model.get("attention") == "causal"
        and model.get("passes") != "single"
        and "method" not in model
    )


def recoded_settings(manifest: Manifest, wanted: Provenance) -> dict[str, Any]:
    """Return the old manifest's settings with the changed ones and the origin of the tokens."""
    old = manifest.provenance
    came_from = {"codec": old.codec, "num_summary_tokens": old.num_summary_tokens}
    changed = {"codec": wanted.codec, "num_summary_tokens": wanted.num_summary_tokens}
    return {**manifest.settings, **changed, "recoded_from": came_from}


def recode_shard(
    path: Path, provenance: Provenance, wanted: Provenance, fit: Fit | None = None
) -> tuple[EncodedRows, list[Reject]]:
    """Read one file of a store and encode its rows anew; rows that do not fit become rejects."""
    parts = [no_rows(wanted.num_summary_tokens, wanted.dim)]
    for part in read_rows(path, provenance):
        prefixes = part.summary_tokens[:, : wanted.num_summary_tokens]
        parts.append(part._replace(summary_tokens=prefixes))
    return encode_rows(concatenate(parts), wanted.codec, fit)


def _coarse(provenance: Provenance) -> StoreError:
    return StoreError(
        f"the store is in {provenance.codec}, which has lost digits; recode the store it was made "
        "from"
    )
