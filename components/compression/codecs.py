"""How summary tokens are stored: which numbers a file holds for them, and which rows it can hold.

A codec is one name in `params.yaml` and in the provenance of a store. `encode` is only for rows that a codec can hold:
`row_faults` finds the others first.

| codec | column summary_tokens | column scales, float32 | bytes per token |
|---|---|---|---|
| float32, float16 | the numbers | – | 4 · dim, 2 · dim |
| int8 | codes -127 … 127, times the scale | one per token | dim + 4 |
| int4 | two codes per byte, lowest first, minus 7, times the scale | one per 64 channels | dim / 2 + dim / 16 |
| rotated4, rotated3, rotated2 | codes of 4, 3, 2 bits, of the rotated token | one per token | dim / 2 + 4 and so on |
"""

from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from components.compression.quantisation import (
    Quantised,
    quantise_evenly,
    quantise_rotated,
    restore_evenly,
    restore_rotated,
)

Codec = Literal["float32", "float16", "int8", "int4", "rotated4", "rotated3", "rotated2"]
Fault = Literal["non_finite", "zero_norm"]
CODECS: tuple[Codec, ...] = get_args(Codec)
BITS = {"int8": 8, "int4": 4, "rotated4": 4, "rotated3": 3, "rotated2": 2}
FLOATS: dict[str, type[np.floating]] = {"float32": np.float32, "float16": np.float16}
CHANNELS_PER_SCALE = 64  # of int4, where dim is a multiple of it
CHANNELS_PER_BYTE = 8  # a token of any number of bits ends with a whole byte when dim is a multiple of it


def row_faults(summary_tokens: np.ndarray, codec: Codec) -> list[Fault | None]:
    """Why `codec` cannot hold a row of `summary_tokens` (batch, summary_tokens, dim), None for each row that it can
    hold.

    `non_finite`: a NaN, an infinity or a value outside the range of the stored type. `zero_norm`: the mean of the
    stored tokens is exactly zero, so that the embedding would be 0 / 0.
    """
    code_type(codec, summary_tokens.shape[-1])
    is_finite = np.isfinite(summary_tokens).all(axis=(1, 2))
    finite = np.where(is_finite[:, None, None], summary_tokens, 0.0).astype(np.float32)
    with np.errstate(over="ignore"):  # the overflow to infinity is what is looked for
        decoded = decode(encode(finite, codec), codec, finite.shape[-1])
    is_finite &= np.isfinite(decoded).all(axis=(1, 2))
    means = np.where(is_finite[:, None, None], decoded, 0.0).mean(axis=1)  # (batch, dim)
    has_norm = (means != 0).any(axis=1)
    return [
        None if good else "zero_norm" if finite else "non_finite"
        for finite, good in zip(is_finite, has_norm, strict=True)
    ]


def encode(summary_tokens: np.ndarray, codec: Codec) -> Quantised:
    """What is stored of finite `summary_tokens` float32 (batch, summary_tokens, dim)."""
    _check(codec)
    dim = summary_tokens.shape[-1]
    match codec:
        case "float32" | "float16":  # rounded to the nearest, ties to even
            no_scales = np.empty((*summary_tokens.shape[:-1], 0), np.float32)
            return Quantised(np.ascontiguousarray(summary_tokens, FLOATS[codec]), no_scales)
        case "int8" | "int4":
            return quantise_evenly(summary_tokens, BITS[codec], dim // num_scales(codec, dim))
        case _:
            return quantise_rotated(summary_tokens, BITS[codec])


def decode(stored: Quantised, codec: Codec, dim: int) -> np.ndarray:
    """float32 summary tokens (batch, summary_tokens, dim) of stored values; exact for floats."""
    _check(codec)
    if stored.codes.dtype != _stored_type(codec):
        raise ValueError(f"codec {codec} cannot decode values of type {stored.codes.dtype}")
    match codec:
        case "float32" | "float16":
            return stored.codes.astype(np.float32)
        case "int8" | "int4":
            return restore_evenly(stored, BITS[codec], dim)
        case _:
            return restore_rotated(stored, BITS[codec])


def num_scales(codec: Codec, dim: int) -> int:
    """Scales per token."""
    if codec == "int4":
        return dim // CHANNELS_PER_SCALE if dim % CHANNELS_PER_SCALE == 0 else 1
    return 0 if codec in FLOATS else 1


def code_type(codec: Codec, dim: int) -> tuple[pa.DataType, int]:
    """The Arrow type of a stored value, and how many of them a token takes.

    Raises ValueError for a `dim` of which tokens would not end with a whole byte.
    """
    _check(codec)
    if codec in FLOATS or codec == "int8":
        return pa.from_numpy_dtype(_stored_type(codec)), dim
    if dim % CHANNELS_PER_BYTE:
        raise ValueError(f"codec {codec} needs a dim that is a multiple of {CHANNELS_PER_BYTE}, not {dim}; take int8")
    return pa.uint8(), dim * BITS[codec] // CHANNELS_PER_BYTE


def token_bytes(codec: Codec, dim: int) -> int:
    """Bytes that a summary token takes before the file is compressed."""
    value, width = code_type(codec, dim)
    return width * value.bit_width // 8 + 4 * num_scales(codec, dim)


def _stored_type(codec: str) -> np.dtype:
    return np.dtype(FLOATS.get(codec, np.int8 if codec == "int8" else np.uint8))


def _check(codec: str) -> None:
    if codec not in CODECS:
        raise ValueError(f"unknown codec {codec!r}; this version knows {', '.join(CODECS)}")
