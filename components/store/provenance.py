"""Provenance of stored tokens: written into every file of a store and into its manifest.

Two stores may be read together, and a model may read a store, only if their provenances agree:
tokens of another model, another k' or another preprocessing have the same shape and are silently
wrong.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.store.codecs import Codec

SCHEMA_VERSION = 3
METADATA_KEY = b"fwd2bot.provenance"


class StoreError(ValueError):
    """A store is damaged, incomplete, mixed, or of another model; the message says the way out."""


class Provenance(BaseModel):
    """All that decides the values of stored tokens, apart from the pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: int
    codec: Codec
    fit_sha256: str | None  # of codec `fitted`; None for the others
    num_summary_tokens: int
    dim: int
    base: str  # folder or hub id by which the base model was loaded: for people, never compared
    # SHA-256 of base weights, adapters and summary queries; the prompt and the scale
    model: dict[str, str]
    preprocessing: dict[str, Any]  # how pixels become the input of the vision tower
    compute: dict[str, str]  # number type and attention of the compression pass
    libraries: dict[str, str]  # versions, for people, never compared


def method_of(provenance: Provenance) -> str | None:
    """Return the name of the compared method that made the tokens; None: Fwd2Bot."""
    chosen = provenance.model.get("method")
    return None if chosen is None else str(json.loads(chosen)["name"])


def to_metadata(provenance: Provenance) -> dict[bytes, bytes]:
    """Return Parquet key-value metadata; equal provenances give equal bytes."""
    return {METADATA_KEY: json.dumps(provenance.model_dump(), sort_keys=True).encode()}


def from_metadata(metadata: Mapping[bytes, bytes] | None, name: str) -> Provenance:
    """Read the provenance of the Parquet file `name`.

    Raises StoreError when it has none or one of another version.
    """
    if not metadata or METADATA_KEY not in metadata:
        raise StoreError(
            f"{name}: has no provenance; it is not a file of summary tokens written by "
            "`flows.compress`"
        )

    # The version decides before the contents do: another one may have other keys.
    try:
        check_schema_version(json.loads(metadata[METADATA_KEY])["schema_version"], name)
        return Provenance.model_validate_json(metadata[METADATA_KEY])
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{name}: its provenance cannot be read by this version (schema {SCHEMA_VERSION}): "
            f"{error}"
        ) from None


def check_schema_version(found: Any, name: str) -> None:
    """Raise StoreError when `name` is of another schema version than this code reads."""
    if found != SCHEMA_VERSION:
        raise StoreError(
            f"{name}: has schema version {found}, this version reads {SCHEMA_VERSION}: compress "
            "the pictures again"
        )


def differences(ours: Provenance, theirs: Provenance) -> list[str]:
    """List a line `key: ours != theirs` for each compared value in which two provenances differ."""
    left, right = _compared(ours), _compared(theirs)
    lines = []
    for key in sorted(left.keys() | right.keys()):
        one, other = left.get(key, "(absent)"), right.get(key, "(absent)")
        if one != other:
            lines.append(f"{key}: {one} != {other}")
    return lines


def _compared(provenance: Provenance) -> dict[str, str]:
    return dict(_leaves(provenance.model_dump(exclude={"base", "libraries"})))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the JSON of every leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)
