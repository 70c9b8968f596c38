"""Codec `fitted`: a transform fitted to a corpus, with bits by variance.

All k' · dim numbers of a picture are one vector, and few directions hold most of its variance. The
vector less the mean of the corpus is turned into its principal directions (Karhunen-Loève
transform), and each of them gets as many bits as lower the error most (reverse water-filling; Cover
& Thomas, Elements of Information Theory, 10.3), at the levels of Lloyd and Max for a normal
distribution. Directions without bits are not kept, so a fit is a table of at most as many rows as
there are pictures, or bits.
"""

import heapq
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import safetensors
from safetensors.numpy import load, save

from components.store.quantisation import BYTE, gaussian_levels, gaussian_parts

MAX_BITS = 8  # of one direction
MIN_PICTURES = 16  # that a fit is made of
SMALL = 1e-12  # of the largest variance; less is rounding


class Fit(NamedTuple):
    """A fitted transform; directions stand in the order of their bits, then of their variance."""

    mean: np.ndarray  # float32 (numbers,), numbers = summary_tokens · dim
    directions: np.ndarray  # float32 (directions, numbers), orthonormal
    deviations: np.ndarray  # float32 (directions,), standard deviations along them
    bits: np.ndarray  # uint8 (directions,), 1 to MAX_BITS

    @property
    def num_bytes(self) -> int:
        """Count the bytes of a picture."""
        return -(-int(self.bits.sum(dtype=np.int64)) // BYTE)


def fit_directions(vectors: np.ndarray, num_bytes: int) -> Fit:
    """Fit to `vectors` float32 (pictures, numbers), at most `num_bytes` per picture.

    It takes fewer when the pictures span too few directions. Raises ValueError for too few
    pictures, or pictures that are alike.
    """
    if len(vectors) < MIN_PICTURES:
        raise ValueError(
            f"{len(vectors)} pictures are too few to fit a codec; {MIN_PICTURES} are the least"
        )

    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean
    variances, directions = _principal_directions(centred)
    if not len(variances):
        raise ValueError(
            "all pictures have the same summary tokens, to which no codec can be fitted"
        )

    # Directions of equal bits stand together, so that each run of them is coded at once.
    bits = allot_bits(variances, BYTE * num_bytes)
    order = np.argsort(-bits, kind="stable")[: np.count_nonzero(bits)]
    return Fit(
        mean.astype(np.float32),
        np.ascontiguousarray(directions[order], np.float32),
        np.sqrt(variances[order]).astype(np.float32),
        bits[order].astype(np.uint8),
    )


def allot_bits(variances: np.ndarray, total: int) -> np.ndarray:
    """Allot `total` bits, int64 (directions,), each where it lowers the squared error most.

    Fewer are allotted once all directions have MAX_BITS.
    """
    bits = np.zeros(len(variances), np.int64)
    gains = -np.diff(gaussian_errors())  # of the first, second, … bit

    # Each further bit gains less than the one before it, so taking the largest gain is optimal.
    heap = list(zip(-variances * gains[0], range(len(variances)), strict=True))
    heapq.heapify(heap)
    for _ in range(min(total, MAX_BITS * len(variances))):
        _, index = heapq.heappop(heap)
        bits[index] += 1
        if bits[index] < MAX_BITS:
            heapq.heappush(heap, (-variances[index] * gains[bits[index]], index))

    return bits


@lru_cache
def gaussian_errors() -> np.ndarray:
    """Return mean squared errors of a standard normal number in 0 … MAX_BITS bits, float64."""
    errors = [1.0]
    for bits in range(1, MAX_BITS + 1):
        levels = gaussian_levels(bits).astype(np.float64)
        shares, sums = gaussian_parts(levels)
        errors.append(float(1.0 - 2 * (levels * sums).sum() + (levels**2 * shares).sum()))
    return np.array(errors)


def quantise_fitted(vectors: np.ndarray, fit: Fit) -> np.ndarray:
    """Encode `vectors` float32 (pictures, numbers) as uint8 (pictures, fit.num_bytes)."""
    found = (vectors - fit.mean) @ fit.directions.T / fit.deviations  # (pictures, directions)
    digits = []
    for bits, start, end in _runs(fit.bits):
        # The boundary between two levels is their midpoint.
        levels = gaussian_levels(bits)
        codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, found[:, start:end])

        # Codes are kept as single bits, since those of a run need not end with a byte.
        codes = codes.astype(np.uint8)[..., None]
        part = np.unpackbits(codes, axis=-1, bitorder="little", count=bits)
        digits.append(part.reshape(len(vectors), -1))

    return np.packbits(np.concatenate(digits, axis=1), axis=1, bitorder="little")


def restore_fitted(codes: np.ndarray, fit: Fit) -> np.ndarray:
    """Restore float32 (pictures, numbers) from `quantise_fitted`."""
    digits = np.unpackbits(codes, axis=-1, bitorder="little")
    found = np.empty((len(codes), len(fit.bits)), np.float32)

    offset = 0  # in bits
    for bits, start, end in _runs(fit.bits):
        width = bits * (end - start)
        part = digits[:, offset : offset + width].reshape(len(codes), end - start, bits)
        numbers = np.packbits(part, axis=-1, bitorder="little")[..., 0]
        found[:, start:end] = gaussian_levels(bits)[numbers]
        offset += width

    return found * fit.deviations @ fit.directions + fit.mean


def fit_bytes(fit: Fit) -> bytes:
    """Write the safetensors file of a fit; equal fits give equal bytes."""
    return bytes(save(fit._asdict()))


def read_fit(data: bytes) -> Fit:
    """Read the bytes of `fit_bytes`. Raises ValueError for anything else."""
    try:
        return Fit(**load(data))
    except (safetensors.SafetensorError, TypeError) as error:
        raise ValueError(f"is no fit of a codec: {error}") from None


def _principal_directions(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find variances (directions,) and directions (directions, numbers), largest first.

    `centred` is (pictures, numbers). The smaller of the two matrices of products is taken apart:
    numbers × numbers, or pictures × pictures.
    """
    # Mixtures of pictures, divided by the roots of their eigenvalues, have length 1.
    if centred.shape[0] < centred.shape[1]:
        squares, mixtures = np.linalg.eigh(centred @ centred.T)
        keep = _large(squares)
        directions = mixtures.T[keep] @ centred / np.sqrt(squares[keep])[:, None]
    else:
        squares, columns = np.linalg.eigh(centred.T @ centred)
        keep = _large(squares)
        directions = columns.T[keep]

    # An eigenvector has either sign; this one does not depend on the library.
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    return squares[keep] / len(centred), directions * np.sign(largest)


def _large(squares: np.ndarray) -> np.ndarray:
    """Return the places of eigenvalues above rounding, largest first."""
    order = np.argsort(squares)[::-1]
    return order[squares[order] > max(SMALL * squares.max(initial=0.0), np.finfo(np.float64).tiny)]


def _runs(bits: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield (bits, first, end) of each run of directions with equal bits."""
    edges = [0, *(np.flatnonzero(np.diff(bits.astype(np.int64))) + 1).tolist(), len(bits)]
    for start, end in pairwise(edges):
        yield int(bits[start]), start, end
