"""Near duplicates: pictures that are nearly the same.

The perceptual hash is the usual one (DCT of a shrunken picture, one bit per low frequency: whether
it is above their median) of each colour channel, since two pictures may differ in a colour only. It
has the bits of ImageHash's `phash`, of all channels at once. Hashes within `max_distance` bits
count as the same picture.

Two hashes within that distance agree on at least one of `max_distance` + 1 bands (pigeonhole), so
an equality join per band finds every pair. DuckDB joins on the disk where memory ends; only the
pairs ever come to Python.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise
from typing import Annotated

import numpy as np
import scipy.fftpack
from duckdb import DuckDBPyConnection
from PIL import Image
from pydantic import Field, model_validator

from components.params import Params

BITS_PER_DIGIT = 4
PIXELS_PER_FREQUENCY = 4  # of the shrunken picture
PAIRS_OF_BAND = """
INSERT INTO found
WITH bands AS (SELECT number, near_hash, substr(near_hash, $first, $width) AS digits FROM hashes),
     shared AS (SELECT digits FROM bands GROUP BY digits HAVING count(*) > 1),
     rows AS (
         SELECT number, digits, from_hex(near_hash)::BIT AS bits
         FROM bands SEMI JOIN shared USING (digits)
     )
SELECT one.number, other.number, bit_count(xor(one.bits, other.bits)) AS distance
FROM rows AS one JOIN rows AS other ON one.digits = other.digits AND one.number < other.number
WHERE distance <= $max_distance
"""


class NearDuplicateParams(Params):
    """Rules by which two pictures count as the same."""

    # frequencies per side; the hash has 3 · hash_size² bits
    hash_size: Annotated[int, Field(ge=4, multiple_of=4)]
    # bits in which the hashes of near duplicates may differ
    max_distance: Annotated[int, Field(ge=0)]
    # standard deviation of grey values; flatter pictures have no hash
    min_contrast: Annotated[float, Field(ge=0)]

    @property
    def num_digits(self) -> int:
        """Hexadecimal digits of a hash."""
        return 3 * self.hash_size**2 // BITS_PER_DIGIT

    @model_validator(mode="after")
    def _every_band_has_a_digit(self) -> "NearDuplicateParams":
        if self.max_distance >= self.num_digits:
            raise ValueError(
                f"max_distance: {self.max_distance} is not < {self.num_digits}, "
                "the hexadecimal digits of a hash; lower it or raise hash_size"
            )
        return self


def perceptual_hash(image: Image.Image, params: NearDuplicateParams) -> str | None:
    """Return the hash of an RGB picture, hexadecimal; None for a flat one, which would be noise."""
    if float(np.asarray(image.convert("L")).std()) < params.min_contrast:
        return None

    # the lowest frequencies of each channel, against their median
    side = PIXELS_PER_FREQUENCY * params.hash_size
    pixels = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))  # (side, side, 3)
    frequencies = scipy.fftpack.dct(scipy.fftpack.dct(pixels, axis=0), axis=1)
    low = frequencies[: params.hash_size, : params.hash_size].reshape(-1, 3)
    return np.packbits((low > np.median(low, axis=0)).T).tobytes().hex()


def pair_near_hashes(database: DuckDBPyConnection, num_digits: int, max_distance: int) -> None:
    """Make table `near` (one, other, distance) of all pairs of table `hashes` within the distance.

    Of `hashes` (number, near_hash), `one` < `other` are numbers; `near_hash` has `num_digits`
    hexadecimal digits and is in the table once.
    """
    # bands of about equal width
    database.execute("CREATE TABLE found (one BIGINT, other BIGINT, distance BIGINT)")
    edges = [num_digits * band // (max_distance + 1) for band in range(max_distance + 2)]
    for low, high in pairwise(edges):
        band = {"first": low + 1, "width": high - low, "max_distance": max_distance}
        database.execute(PAIRS_OF_BAND, band)

    # A pair that agrees on several bands was found several times.
    database.execute("CREATE TABLE near AS SELECT DISTINCT * FROM found")
    database.execute("DROP TABLE found")


def representatives(pairs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield (other, the one that stands for it) from near pairs (other, one).

    Pairs are sorted by other and then from near to far. Numbers are in input order, and the first
    of two near pictures stays. One that is represented represents nobody, so nearness does not
    chain; where several are near, the nearest counts.
    """
    represented: set[int] = set()
    for other, group in groupby(pairs, key=lambda pair: pair[0]):
        for _, one in group:
            if one not in represented:
                represented.add(other)
                yield other, one
                break
