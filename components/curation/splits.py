"""Which split a row belongs to: a hash decides, so the answer never depends on order, worker count or the other rows.

The key is the picture (near duplicates share the key of the picture that represents them), so no picture is in two
splits; rows without a picture are keyed by their id.
"""

import hashlib

from components import schema


def split_of(key: str, seed: int, validation_fraction: float) -> str:
    """`train` or `validation`; the expected share of keys in `validation` is `validation_fraction`."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
    return schema.VALIDATION if position < validation_fraction else schema.TRAIN
