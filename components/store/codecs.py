"""Codecs: number formats of stored summary tokens.

A codec is one name in `params.yaml` and in the provenance of a store. `encode` is only for rows
that a codec can hold; `encode_checked` also names the others.

| codec | summary_tokens | scales, float32 | bytes per token |
|---|---|---|---|
| float32, float16 | the numbers | – | 4 · dim, 2 · dim |
| int8 | codes -127 … 127, times the scale | one per token | dim + 4 |
| int4 | codes 0 … 14, two per byte, minus 7, times the scale | one per 64 channels | 9 dim / 16 |
| rotated4, … 3, … 2 | codes of 4, 3, 2 bits of the rotated token | one per token | dim / 2 + 4, … |
| fitted | codes of 1 to 8 bits, of principal directions | – | as asked, per *picture* |

`fitted` needs a Fit to a corpus, which lies in the store; the others are fixed for all time.
"""

from typing import Literal, assert_never, get_args

import numpy as np
import pyarrow as pa

from components.store.fit import Fit, quantise_fitted, restore_fitted
from components.store.quantisation import (
    Quantised,
    quantise_evenly,
    quantise_rotated,
    restore_evenly,
    restore_rotated,
)

FixedCodec = Literal["float32", "float16", "int8", "int4", "rotated4", "rotated3", "rotated2"]
Codec = FixedCodec | Literal["fitted"]
Fault = Literal["non_finite", "zero_norm"]
CODECS: tuple[FixedCodec, ...] = get_args(FixedCodec)
FITTED: Literal["fitted"] = "fitted"
BITS = {"int8": 8, "int4": 4, "rotated4": 4, "rotated3": 3, "rotated2": 2}
FLOATS: dict[str, type[np.floating]] = {"float32": np.float32, "float16": np.float16}
CHANNELS_PER_SCALE = 64  # of int4, where dim is a multiple of it
# a token of any number of bits ends with a whole byte when dim is a multiple of it
CHANNELS_PER_BYTE = 8


def encode_checked(
    summary_tokens: np.ndarray, codec: Codec, fit: Fit | None = None
) -> tuple[Quantised, list[Fault | None]]:
    """Encode `summary_tokens` float32 (batch, summary_tokens, dim), and find rows that do not fit.

    The fault of a row is None where `codec` can hold it. `non_finite`: a NaN, an infinity or a
    value outside the range of the stored type. `zero_norm`: the mean of the stored tokens is
    exactly zero, so that the embedding would be 0 / 0.
    """
    _, num_summary_tokens, dim = summary_tokens.shape
    code_type(codec, num_summary_tokens, dim, fit)

    # A zero in place of what is not finite keeps the arithmetic of the codec silent.
    is_finite = np.isfinite(summary_tokens).all(axis=(1, 2))
    finite = np.where(is_finite[:, None, None], summary_tokens, 0.0).astype(np.float32)
    with np.errstate(over="ignore"):  # the overflow to infinity is what is looked for
        stored = encode(finite, codec, fit)
        decoded = decode(stored, codec, dim, fit)

    # The decoded numbers decide, since readers get them and not the given ones.
    is_finite &= np.isfinite(decoded).all(axis=(1, 2))
    means = np.where(is_finite[:, None, None], decoded, 0.0).mean(axis=1)  # (batch, dim)
    faults: list[Fault | None] = [None] * len(summary_tokens)
    for row in np.flatnonzero((means == 0).all(axis=1)):
        faults[row] = "zero_norm" if is_finite[row] else "non_finite"
    return stored, faults


def encode(summary_tokens: np.ndarray, codec: Codec, fit: Fit | None = None) -> Quantised:
    """Encode finite `summary_tokens` float32 (batch, summary_tokens, dim)."""
    _check(codec, fit)
    dim = summary_tokens.shape[-1]

    match codec:
        case "float32" | "float16":  # rounded to the nearest, ties to even
            return _unscaled(np.ascontiguousarray(summary_tokens, FLOATS[codec]))
        case "int8" | "int4":
            return quantise_evenly(summary_tokens, BITS[codec], dim // num_scales(codec, dim))
        case "fitted":
            assert fit is not None
            vectors = summary_tokens.reshape(len(summary_tokens), len(fit.mean))
            return _unscaled(quantise_fitted(vectors, fit)[:, None])
        case "rotated4" | "rotated3" | "rotated2":
            return quantise_rotated(summary_tokens, BITS[codec])
        case _:
            assert_never(codec)


def decode(stored: Quantised, codec: Codec, dim: int, fit: Fit | None = None) -> np.ndarray:
    """Decode to float32 summary tokens (batch, summary_tokens, dim); exact for floats."""
    _check(codec, fit)
    if stored.codes.dtype != _stored_type(codec):
        raise ValueError(f"codec {codec} cannot decode values of type {stored.codes.dtype}")

    match codec:
        case "float32" | "float16":
            return stored.codes.astype(np.float32)
        case "int8" | "int4":
            return restore_evenly(stored, BITS[codec], dim)
        case "fitted":
            assert fit is not None
            return restore_fitted(stored.codes[:, 0], fit).reshape(len(stored.codes), -1, dim)
        case "rotated4" | "rotated3" | "rotated2":
            return restore_rotated(stored, BITS[codec])
        case _:
            assert_never(codec)


def num_scales(codec: Codec, dim: int) -> int:
    """Return the number of scales per token."""
    if codec in FLOATS or codec == FITTED:
        return 0
    has_groups = codec == "int4" and dim % CHANNELS_PER_SCALE == 0
    return dim // CHANNELS_PER_SCALE if has_groups else 1


def code_type(
    codec: Codec, num_summary_tokens: int, dim: int, fit: Fit | None = None
) -> tuple[pa.DataType, tuple[int, int]]:
    """Return the Arrow type of a stored value, and the shape of the values of a picture.

    That is (num_summary_tokens, values of a token), or (1, values of the picture). Raises
    ValueError for a shape that the codec or the fit is not for.
    """
    _check(codec, fit)

    # A fit codes all tokens of a picture together.
    if fit is not None:
        if len(fit.mean) != num_summary_tokens * dim:
            raise ValueError(
                f"the codec was fitted to {len(fit.mean)} numbers, not to "
                f"{num_summary_tokens} × {dim}"
            )
        return pa.uint8(), (1, fit.num_bytes)

    if codec in FLOATS or codec == "int8":
        return pa.from_numpy_dtype(_stored_type(codec)), (num_summary_tokens, dim)

    # Packed codes of a token end with a whole byte.
    if dim % CHANNELS_PER_BYTE:
        raise ValueError(
            f"codec {codec} needs a dim that is a multiple of {CHANNELS_PER_BYTE}, not {dim}; take "
            "int8"
        )
    return pa.uint8(), (num_summary_tokens, dim * BITS[codec] // CHANNELS_PER_BYTE)


def picture_bytes(codec: Codec, num_summary_tokens: int, dim: int, fit: Fit | None = None) -> int:
    """Count the bytes of a picture's summary tokens before the file is compressed."""
    value, (rows, width) = code_type(codec, num_summary_tokens, dim, fit)
    return rows * (width * value.bit_width // 8 + 4 * num_scales(codec, dim))


def _unscaled(codes: np.ndarray) -> Quantised:
    """Give codes (batch, tokens, values) no scales."""
    return Quantised(codes, np.empty((*codes.shape[:2], 0), np.float32))


def _stored_type(codec: str) -> np.dtype:
    return np.dtype(FLOATS.get(codec, np.int8 if codec == "int8" else np.uint8))


def _check(codec: str, fit: Fit | None) -> None:
    if codec not in (*CODECS, FITTED):
        raise ValueError(
            f"unknown codec {codec!r}; this version knows {', '.join((*CODECS, FITTED))}"
        )
    if (codec == FITTED) != (fit is not None):
        raise ValueError(f"codec {codec}: only {FITTED} has a fit, and it needs one")
