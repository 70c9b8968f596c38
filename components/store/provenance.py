"""Where stored tokens come from: written into every file of a store and into its manifest, compared before anything is
mixed.

Two stores may be read together, and a model may read a store, only if their fingerprints agree:
tokens of another model, another k' or another preprocessing have the same shape and are silently
wrong.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.store.codecs import Codec

SCHEMA_VERSION = 3
SETTINGS = "_settings_sha256"  # how names end of hashes that older stores do not have
METADATA_KEY = b"fwd2bot.provenance"


class StoreError(ValueError):
    """A store is damaged, incomplete, mixed, or of another model; the message names the file and the way out."""


class Provenance(BaseModel):
    """All that decides the values of stored tokens, apart from the pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: int
    codec: Codec
    fit_sha256: str | None  # of what codec `fitted` was fitted to be; None for the others
    num_summary_tokens: int
    dim: int
    base: str  # folder or hub id by which the base model was loaded: for people, never compared
    # SHA-256 of base weights, adapters and summary queries; the prompt and the scale
    model: dict[str, str]
    preprocessing: dict[str, Any]  # how pixels become the input of the vision tower
    compute: dict[str, str]  # number type and attention of the compression pass
    libraries: dict[str, str]  # versions, for people, never compared


def method_of(provenance: Provenance) -> str | None:
    """The compared method that made the tokens, by name; None: Fwd2Bot."""
    chosen = provenance.model.get("method")
    return None if chosen is None else str(json.loads(chosen)["name"])


def to_metadata(provenance: Provenance) -> dict[bytes, bytes]:
    """The provenance as Parquet key-value metadata; equal provenances give equal bytes."""
    return {METADATA_KEY: json.dumps(provenance.model_dump(), sort_keys=True).encode()}


def from_metadata(metadata: Mapping[bytes, bytes] | None, name: str) -> Provenance:
    """The provenance of the Parquet file `name`. Raises StoreError when it has none or one of another version."""
    if not metadata or METADATA_KEY not in metadata:
        raise StoreError(
            f"{name}: has no provenance; it is not a file of summary tokens written by `flows.compress`"
        )
    try:
        check_schema_version(json.loads(metadata[METADATA_KEY])["schema_version"], name)
        return Provenance.model_validate_json(metadata[METADATA_KEY])
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{name}: its provenance cannot be read by this version (schema {SCHEMA_VERSION}): {error}"
        ) from None


def check_schema_version(found: Any, name: str) -> None:
    """Raises StoreError, with the way out, when `name` is of another schema version than this one reads."""
    if found == SCHEMA_VERSION:
        return
    if isinstance(found, int) and found > SCHEMA_VERSION:
        way_out = "it was written by a newer fwd2bot: update yours"
    else:
        way_out = "write the store anew with `python -m flows.migrate`"
    raise StoreError(
        f"{name}: has schema version {found}, this version reads {SCHEMA_VERSION}; {way_out}"
    )


def differences(ours: Provenance, theirs: Provenance) -> list[str]:
    """One line `key: ours != theirs` for each compared value in which two provenances differ.

    What one of them was written too early to know of settings is not compared: the base model
    itself is, with its compressor.
    """
    left, right = dict(_leaves(_compared(ours))), dict(_leaves(_compared(theirs)))
    in_both, in_one = left.keys() & right.keys(), left.keys() ^ right.keys()
    keys = sorted(in_both | {key for key in in_one if not key.endswith(SETTINGS)})
    absent = "(absent)"
    return [
        f"{key}: {left.get(key, absent)} != {right.get(key, absent)}"
        for key in keys
        if left.get(key) != right.get(key)
    ]


def _compared(provenance: Provenance) -> dict[str, Any]:
    return provenance.model_dump(exclude={"base", "libraries"})


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)
