import random

import duckdb
import imagehash
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from components.curation.deduplication import (
    NearDuplicateParams,
    pair_near_hashes,
    perceptual_hash,
    representatives,
)

PARAMS = NearDuplicateParams(hash_size=24, max_distance=12, min_contrast=3.0)
NUM_BITS = 64


def picture(colour: str = "red", position: int = 20) -> Image.Image:
    """A shape on a gradient, 96 × 96 pixels."""
    ramp = np.tile(np.linspace(90, 200, 96, dtype=np.uint8), (96, 1))
    image = Image.fromarray(ramp).convert("RGB")
    ImageDraw.Draw(image).ellipse((position, 60, position + 12, 72), fill=colour)
    return image


def distance(a: Image.Image, b: Image.Image) -> int:
    return (
        int(perceptual_hash(a, PARAMS) or "", 16) ^ int(perceptual_hash(b, PARAMS) or "", 16)
    ).bit_count()


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_perceptual_hash_of_a_flat_picture_is_none(grey: int) -> None:
    assert perceptual_hash(Image.new("RGB", (96, 96), (grey, grey, grey)), PARAMS) is None


@pytest.mark.parametrize("hash_size", [4, 8, 16, 24])
@pytest.mark.parametrize("shape", [(48, 48), (96, 31), (300, 200)])
def test_perceptual_hash_is_that_of_imagehash_per_channel(
    hash_size: int, shape: tuple[int, int]
) -> None:
    params = NearDuplicateParams(hash_size=hash_size, max_distance=0, min_contrast=3.0)
    for seed in range(10):
        tiles = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
        image = Image.fromarray(tiles).resize(shape, Image.Resampling.BICUBIC)
        bits = [imagehash.phash(channel, hash_size=hash_size).hash for channel in image.split()]
        assert perceptual_hash(image, params) == np.packbits(np.stack(bits)).tobytes().hex()


def test_perceptual_hash_tells_pictures_apart_that_differ_in_one_small_shape() -> None:
    assert distance(picture(), picture("blue")) > PARAMS.max_distance
    assert distance(picture(), picture(position=60)) > PARAMS.max_distance


def test_perceptual_hash_finds_a_picture_again_after_a_change_nobody_sees() -> None:
    noisy = np.asarray(picture()).copy()
    noisy[5, 5] += 1
    assert distance(picture(), Image.fromarray(noisy)) <= PARAMS.max_distance


@pytest.mark.parametrize("max_distance", [0, 1, 5, 12])
def test_pair_near_hashes_equals_a_search_over_all_pairs(max_distance: int) -> None:
    values = hashes(max_distance)
    with duckdb.connect() as database:
        numbered = {
            "number": range(len(values)),
            "near_hash": [f"{value:016x}" for value in values],
        }
        database.register("hashes", pa.table(numbered))
        pair_near_hashes(database, NUM_BITS // 4, max_distance)
        found = set(database.execute("SELECT one, other, distance FROM near").fetchall())
    pairs = [
        (one, other, (values[one] ^ values[other]).bit_count())
        for other in range(200)
        for one in range(other)
    ]
    assert found == {pair for pair in pairs if pair[2] <= max_distance}
    assert found or max_distance == 0


def test_representatives_are_the_nearest_that_represent_themselves() -> None:
    values = hashes(5)
    near = [
        (other, (values[one] ^ values[other]).bit_count(), one)
        for other in range(200)
        for one in range(other)
    ]
    pairs = [(other, one) for other, distance, one in sorted(near) if distance <= 5]
    expected: dict[int, int] = {}
    standing: list[int] = []
    for number, value in enumerate(values):
        distances = {one: (values[one] ^ value).bit_count() for one in standing}
        nearest = min(distances, key=lambda one: (distances[one], one), default=None)
        if nearest is not None and distances[nearest] <= 5:
            expected[number] = nearest
        else:
            standing.append(number)
    assert dict(representatives(pairs)) == expected
    assert expected


def test_near_duplicate_params_refuse_a_distance_that_leaves_a_band_empty() -> None:
    with pytest.raises(
        ValueError, match="max_distance: 12 is not < 12, the hexadecimal digits of a hash"
    ):
        NearDuplicateParams(hash_size=4, max_distance=12, min_contrast=0.0)


def hashes(seed: int) -> list[int]:
    """40 of `NUM_BITS` bits and nearer and farther copies, of copies too; no two are the same."""
    rng = random.Random(seed)
    values = [rng.getrandbits(NUM_BITS) for _ in range(40)]
    while len(values) < 200:
        copy = rng.choice(values) ^ sum(
            1 << bit for bit in rng.sample(range(NUM_BITS), rng.randrange(9))
        )
        if copy not in values:
            values.append(copy)
    return values
