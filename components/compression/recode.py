"""A store in another codec, or with fewer tokens per picture, without the pictures and without the model.

With a causal compression pass no summary query sees the ones behind it: the first k of k' tokens are what a pass with k
queries gives. (Whether they say enough is a matter of training: `train.nested_budgets`.)
"""

import hashlib
from pathlib import Path
from typing import Any

from components.compression.codecs import FLOATS, Codec, code_type
from components.compression.manifest import Manifest
from components.compression.provenance import Provenance, StoreError
from components.compression.rejects import Reject
from components.compression.shards import concatenate, no_rows, read_rows, shard_bytes, split_by_codec


def recoded_provenance(provenance: Provenance, codec: Codec, num_summary_tokens: int) -> Provenance:
    """What the new store says of itself. Raises StoreError when the old one cannot become it."""
    if not 1 <= num_summary_tokens <= provenance.num_summary_tokens:
        raise StoreError(f"{num_summary_tokens} tokens: the store has {provenance.num_summary_tokens} per picture")
    if num_summary_tokens < provenance.num_summary_tokens and provenance.model.get("attention") != "causal":
        raise StoreError("the tokens of this store see each other (attention: bidirectional): none can be left out")
    if provenance.codec not in FLOATS and codec != provenance.codec:
        raise StoreError(
            f"the store is in {provenance.codec}, which has lost digits; recode the store it was made from"
        )
    code_type(codec, provenance.dim)
    return provenance.model_copy(update={"codec": codec, "num_summary_tokens": num_summary_tokens})


def recoded_settings(manifest: Manifest, wanted: Provenance) -> dict[str, Any]:
    """The settings of the new manifest: those of the old one, and what became of it."""
    old = manifest.provenance
    came_from = {"codec": old.codec, "num_summary_tokens": old.num_summary_tokens}
    changed = {"codec": wanted.codec, "num_summary_tokens": wanted.num_summary_tokens}
    return {**manifest.settings, **changed, "recoded_from": came_from}


def code_sha256() -> str:
    """Of the code that turns tokens into files: shards of a killed run count only for the same."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def recode_shard(
    path: Path, provenance: Provenance, wanted: Provenance, rows_per_row_group: int
) -> tuple[bytes, int, list[Reject]]:
    """One file of a store anew: its bytes, its rows, and rows that the new codec cannot hold."""
    kept, rejects = [no_rows(wanted.num_summary_tokens, wanted.dim)], []
    for part in read_rows(path, provenance):
        prefix = part._replace(summary_tokens=part.summary_tokens[:, : wanted.num_summary_tokens])
        rows, unstorable = split_by_codec(prefix, wanted.codec)
        kept.append(rows)
        rejects += unstorable
    rows = concatenate(kept)
    return shard_bytes(rows, wanted, rows_per_row_group), len(rows.image_ids), rejects
