"""How summary tokens are stored: the number type of a stored value, and which rows it can hold.

A codec is one name in `params.yaml` and in the provenance of a store. Hidden states have large outlier channels, and
2-byte floats end at 65504, so `encode` is only for rows that its type can hold: `row_faults` finds the others first.
"""

from typing import Literal

import numpy as np
import pyarrow as pa

Codec = Literal["float16", "float32"]
Fault = Literal["non_finite", "zero_norm"]

_TYPES: dict[str, tuple[type[np.floating], pa.DataType]] = {
    "float16": (np.float16, pa.float16()),
    "float32": (np.float32, pa.float32()),
}


def row_faults(summary_tokens: np.ndarray, codec: Codec) -> list[Fault | None]:
    """Why `codec` cannot hold a row of `summary_tokens` (batch, summary_tokens, dim), None for each row that it can
    hold.

    `non_finite`: a NaN, an infinity or a value outside the range of the stored type. `zero_norm`: the mean of the
    stored tokens is exactly zero, so that the embedding would be 0 / 0.
    """
    with np.errstate(over="ignore"):  # the overflow to infinity is what is looked for
        decoded = decode(encode(summary_tokens, codec), codec)
    is_finite = np.isfinite(decoded).all(axis=(1, 2))
    means = np.where(is_finite[:, None, None], decoded, 0.0).mean(axis=1)  # (batch, dim)
    has_norm = (means != 0).any(axis=1)
    return [
        None if good else "zero_norm" if finite else "non_finite"
        for finite, good in zip(is_finite, has_norm, strict=True)
    ]


def encode(summary_tokens: np.ndarray, codec: Codec) -> np.ndarray:
    """The stored values of `summary_tokens` (batch, summary_tokens, dim), rounded to the nearest, ties to even."""
    return np.ascontiguousarray(summary_tokens, dtype=_numpy_type(codec))


def decode(stored: np.ndarray, codec: Codec) -> np.ndarray:
    """float32 summary tokens (batch, summary_tokens, dim) of stored values; exact for both codecs."""
    if stored.dtype != _numpy_type(codec):
        raise ValueError(f"codec {codec} cannot decode values of type {stored.dtype}")
    return stored.astype(np.float32)


def arrow_type(codec: Codec) -> pa.DataType:
    """The Arrow type of one stored value."""
    return _look_up(codec)[1]


def _numpy_type(codec: str) -> type[np.floating]:
    return _look_up(codec)[0]


def _look_up(codec: str) -> tuple[type[np.floating], pa.DataType]:
    if codec not in _TYPES:
        raise ValueError(f"unknown codec {codec!r}; this version knows {', '.join(_TYPES)}")
    return _TYPES[codec]
