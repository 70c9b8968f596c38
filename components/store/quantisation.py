"""Numbers in a few bits: a code per number, a scale per group of numbers, codes packed into bytes.

Hidden states have a few channels that are far larger than the rest; one scale for all wastes most
codes on them. Two ways out: a scale per small group, or a random rotation, after which all numbers
of a vector are close to normally distributed with one variance, so that one table of codes, the
best for that distribution (Lloyd 1957/1982, Max 1960), fits every picture of every model and
nothing has to be fitted. A rotation keeps the error of the whole vector small, a scale per group
the error of every group: where three channels hold nearly all of a vector's length and the others
matter, take groups.
"""

import hashlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

LLOYD_ITERATIONS = 2000  # 16 levels are within 1e-9 of their fixed point
BYTE = 8
ROUNDS = 2  # of a rotation
CACHED_VECTORS = 64  # transformed at a time: 1 MB of a 7B model, which stays in the cache


class Quantised(NamedTuple):
    """Packed codes and scales of vectors (…, dim)."""

    codes: np.ndarray  # int8 (…, dim), or uint8 (…, dim · bits / 8)
    scales: np.ndarray  # float32 (…, groups)


def quantise_evenly(vectors: np.ndarray, bits: int, group: int) -> Quantised:
    """Round each `group` of neighbours of `vectors` float32 (…, dim) to even steps, -max to max.

    Eight bits are kept as int8, fewer are packed. The error of a number is at most half a step.
    """
    top = 2 ** (bits - 1) - 1
    grouped = vectors.reshape(*vectors.shape[:-1], vectors.shape[-1] // group, group)
    scales = (np.abs(grouped).max(axis=-1) / top).astype(np.float32)

    # A group of zeros has no scale to divide by, and stays zero.
    step = scales[..., None]
    steps = np.divide(grouped, step, out=np.zeros_like(grouped), where=step > 0)
    codes = np.clip(np.rint(steps), -top, top).astype(np.int8).reshape(vectors.shape)
    return Quantised(codes if bits == BYTE else pack((codes + top).astype(np.uint8), bits), scales)


def restore_evenly(quantised: Quantised, bits: int, dim: int) -> np.ndarray:
    """Restore float32 (…, dim) from `quantise_evenly`."""
    top = 2 ** (bits - 1) - 1
    codes = quantised.codes if bits == BYTE else unpack(quantised.codes, bits).astype(np.int8) - top
    groups = quantised.scales.shape[-1]
    grouped = codes.reshape(*codes.shape[:-1], groups, dim // groups).astype(np.float32)
    return (grouped * quantised.scales[..., None]).reshape(*codes.shape[:-1], dim)


def quantise_rotated(vectors: np.ndarray, bits: int) -> Quantised:
    """Rotate `vectors` float32 (…, dim) and round to the nearest of 2^bits levels.

    A vector has one scale, the one with the least squared error.
    """
    # Divided by the largest number, squares neither over- nor underflow.
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    rotated = rotate(np.divide(vectors, largest, out=np.zeros_like(vectors), where=largest > 0))
    sizes = np.sqrt(np.square(rotated).mean(axis=-1, keepdims=True))
    unit = np.divide(rotated, sizes, out=np.zeros_like(rotated), where=sizes > 0)

    levels = gaussian_levels(bits)
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, unit).astype(np.uint8)

    # The least squares of `rotated` on the levels: <rotated, restored> / <restored, restored>.
    restored = levels[codes]
    products = (rotated * restored).sum(axis=-1, keepdims=True)
    scales = products / np.square(restored).sum(axis=-1, keepdims=True)
    return Quantised(pack(codes, bits), (scales * largest).astype(np.float32))


def restore_rotated(quantised: Quantised, bits: int) -> np.ndarray:
    """Restore float32 (…, dim) from `quantise_rotated`."""
    return rotate_back(gaussian_levels(bits)[unpack(quantised.codes, bits)] * quantised.scales)


@lru_cache
def gaussian_levels(bits: int) -> np.ndarray:
    """Find the levels float32 (2^bits,) of least squared error for a standard normal number."""
    # Many levels are best spread like a normal distribution of three times the variance.
    levels = np.sqrt(3) * ndtri((np.arange(2**bits) + 0.5) / 2**bits)

    # Lloyd's step: a level becomes the mean of the numbers that it is the nearest level to.
    for _ in range(LLOYD_ITERATIONS):
        shares, sums = gaussian_parts(levels)
        levels = sums / shares

    return levels.astype(np.float32)


def gaussian_parts(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split standard normal numbers by the nearest of `levels` (n,): share and sum of each part."""
    edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    return np.diff(ndtr(edges)), -np.diff(np.exp(-np.square(edges) / 2)) / np.sqrt(2 * np.pi)


def rotate(vectors: np.ndarray) -> np.ndarray:
    """Rotate `vectors` float32 (…, dim) at random, but always alike.

    Twice: channels shuffled, signs flipped, a Hadamard transform per block. A block is the largest
    power of two that divides `dim`. The second round spreads over all blocks what is large in one,
    and makes many different numbers of few large ones.
    """
    channels = _by_channel(vectors)
    for turn in range(ROUNDS):
        order, signs = _shuffle(vectors.shape[-1], turn)
        channels = _hadamard(channels[order] * signs[:, None])
    return channels.T.reshape(vectors.shape)


def rotate_back(rotated: np.ndarray) -> np.ndarray:
    """Undo `rotate`, to rounding."""
    channels = _by_channel(rotated)
    for turn in reversed(range(ROUNDS)):
        order, signs = _shuffle(rotated.shape[-1], turn)
        channels = (_hadamard(channels) * signs[:, None])[np.argsort(order)]
    return channels.T.reshape(rotated.shape)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack uint8 codes (…, n) below 2^bits into (…, n · bits / 8), lowest bits first; 8 | n."""
    digits = np.unpackbits(codes[..., None], axis=-1, bitorder="little", count=bits)
    return np.packbits(
        digits.reshape(*codes.shape[:-1], codes.shape[-1] * bits), axis=-1, bitorder="little"
    )


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """Undo `pack`: uint8 codes (…, n) from (…, n · bits / 8)."""
    # The bytes of eight codes make one 64-bit word, from which shifts take them all at once.
    eights = packed.reshape(*packed.shape[:-1], packed.shape[-1] // bits, bits)
    words = np.zeros((*eights.shape[:-1], 8), np.uint8)
    words[..., :bits] = eights

    shifts = np.arange(0, BYTE * bits, bits, dtype=np.uint64)
    codes = (words.view("<u8") >> shifts).astype(np.uint8) & np.uint8(2**bits - 1)
    return codes.reshape(*packed.shape[:-1], packed.shape[-1] * BYTE // bits)


@lru_cache
def _shuffle(dim: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an order of the channels and a sign for each.

    They come from a hash, not from a library's random stream: the same for all time.
    """
    noise = hashlib.shake_256(f"fwd2bot rotation of {dim}, round {turn}".encode()).digest(9 * dim)
    order = np.argsort(np.frombuffer(noise[: 8 * dim], "<u8"), kind="stable")
    signs = 1 - 2 * (np.frombuffer(noise[8 * dim :], np.uint8) & 1).astype(np.float32)
    return order, signs


def _by_channel(vectors: np.ndarray) -> np.ndarray:
    """Transpose to float32 (dim, vectors): numbers that are added up lie in long rows, faster."""
    return np.ascontiguousarray(vectors.reshape(-1, vectors.shape[-1]).T, np.float32)


def _hadamard(channels: np.ndarray) -> np.ndarray:
    """Transform blocks of (dim, vectors) by the orthonormal Hadamard matrix, its own inverse."""
    dim, num_vectors = channels.shape
    block = dim & -dim
    transformed = np.empty_like(channels)

    # A part that stays in the cache goes through all log2(block) rounds of sums and differences.
    for start in range(0, num_vectors, CACHED_VECTORS):
        part = channels[:, start : start + CACHED_VECTORS]

        half = 1
        while half < block:
            low, high = part.reshape(dim // (2 * half), 2, half, -1).swapaxes(0, 1)
            part = np.stack([low + high, low - high], axis=1).reshape(part.shape)
            half *= 2
        transformed[:, start : start + CACHED_VECTORS] = part / np.float32(np.sqrt(block))

    return transformed
