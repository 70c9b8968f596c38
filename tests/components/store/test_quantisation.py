"""Quantisation against scipy's Hadamard matrix, published levels of Lloyd and Max, plain loops."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components.store import quantisation
from components.store.quantisation import (
    Quantised,
    gaussian_levels,
    pack,
    quantise_evenly,
    quantise_rotated,
    restore_evenly,
    restore_rotated,
    rotate,
    rotate_back,
    unpack,
)

# Max (1960), table I: the positive levels.
PUBLISHED = {
    1: [0.7980],
    2: [0.4528, 1.510],
    3: [0.2451, 0.7560, 1.344, 2.152],
    4: [0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733],
}
# Mean squared error of a standard normal number, from the same table.
PUBLISHED_ERRORS = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}
VECTORS = hnp.arrays(np.float32, (3, 2, 16), elements=st.floats(-1e4, 1e4, width=32))


@pytest.mark.parametrize("bits", PUBLISHED)
def test_gaussian_levels_are_those_of_max(bits: int) -> None:
    levels = gaussian_levels(bits)
    np.testing.assert_allclose(levels[2 ** (bits - 1) :], PUBLISHED[bits], atol=1e-3)
    np.testing.assert_allclose(levels, -levels[::-1], atol=1e-6)


@pytest.mark.parametrize("bits", PUBLISHED)
def test_gaussian_levels_are_the_means_of_their_parts(bits: int) -> None:
    levels = gaussian_levels(bits).astype(float)
    edges = [-np.inf, *((levels[1:] + levels[:-1]) / 2), np.inf]
    means = [scipy.stats.truncnorm.mean(low, high) for low, high in pairwise(edges)]
    np.testing.assert_allclose(levels, means, atol=1e-5)


@given(st.integers(1, 8), st.data())
def test_pack_and_unpack_are_inverse_and_take_the_bytes_they_should(
    bits: int, data: st.DataObject
) -> None:
    codes = data.draw(hnp.arrays(np.uint8, (2, 24), elements=st.integers(0, 2**bits - 1)))
    packed = pack(codes, bits)
    assert packed.shape == (2, 3 * bits)
    np.testing.assert_array_equal(unpack(packed, bits), codes)
    number = sum(int(code) << (bits * place) for place, code in enumerate(codes[0]))
    assert packed[0].tobytes() == number.to_bytes(3 * bits, "little")


@pytest.mark.parametrize(("dim", "block"), [(8, 8), (128, 128), (24, 8), (20, 4), (7, 1)])
def test_rotate_is_a_hadamard_matrix_on_shuffled_channels_twice(dim: int, block: int) -> None:
    hadamard = scipy.linalg.block_diag(
        *[scipy.linalg.hadamard(block) / np.sqrt(block)] * (dim // block)
    )
    vectors = np.random.default_rng(0).normal(size=(3, 2, dim)).astype(np.float32)
    expected = vectors.astype(float)
    for turn in (0, 1):
        order, signs = quantisation._shuffle(dim, turn)
        assert sorted(order.tolist()) == list(range(dim))
        expected = (expected[..., order] * signs) @ hadamard
    np.testing.assert_allclose(rotate(vectors), expected, atol=1e-5)
    np.testing.assert_allclose(rotate_back(rotate(vectors)), vectors, atol=1e-5)


@pytest.mark.parametrize("dim", [5120, 3584])  # of LLaVA-13B and Qwen 7B: no powers of two
def test_rotate_makes_all_blocks_alike(dim: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, dim)).astype(np.float32)
    vectors[:, [7, 500, 900]] *= 300
    blocks = rotate(vectors).reshape(20, -1, dim & -dim)
    sizes = np.sqrt(np.square(blocks).mean(axis=(0, 2)))
    assert sizes.max() < 1.3 * sizes.min()


def test_rotation_never_changes() -> None:
    """Stores of years ago must decode: the first numbers are written down here."""
    rotation = [
        (order[:6].tolist(), signs[:6].tolist())
        for order, signs in map(quantisation._shuffle, (128, 128), (0, 1))
    ]
    assert rotation == [
        ([114, 102, 101, 79, 42, 19], [1, 1, -1, 1, 1, -1]),
        ([91, 76, 51, 93, 43, 17], [-1, 1, 1, -1, 1, -1]),
    ]


@given(VECTORS, st.sampled_from([(8, 16), (4, 8), (4, 16)]))
def test_even_steps_err_by_half_a_step_at_most(vectors: np.ndarray, shape: tuple[int, int]) -> None:
    bits, group = shape
    restored = restore_evenly(quantise_evenly(vectors, bits, group), bits, 16)
    largest = np.abs(vectors.reshape(3, 2, -1, group)).max(axis=-1, keepdims=True)
    half_a_step = np.broadcast_to(
        largest / (2 ** (bits - 1) - 1) / 2, (3, 2, 16 // group, group)
    ).reshape(3, 2, 16)
    assert (np.abs(restored - vectors) <= half_a_step * (1 + 1e-5) + 1e-30).all()


@pytest.mark.parametrize("bits", PUBLISHED)
def test_rotated_vectors_err_as_normal_numbers_do(bits: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 4, 1024)).astype(np.float32)
    assert relative_error(vectors, bits) == pytest.approx(PUBLISHED_ERRORS[bits], rel=0.05)


@pytest.mark.parametrize("dim", [1024, 5120])
@pytest.mark.parametrize("bits", PUBLISHED)
def test_rotated_vectors_with_large_channels_err_no_more(bits: int, dim: int) -> None:
    """The small channels drown with two bits and are better kept by a scale per group."""
    vectors = np.random.default_rng(0).normal(size=(100, 4, dim)).astype(np.float32)
    vectors[..., [7, 500, 900]] *= 300  # as hidden states have
    assert relative_error(vectors, bits) < 1.2 * PUBLISHED_ERRORS[bits]


def test_a_scale_per_group_keeps_small_channels_beside_large_ones() -> None:
    vectors = np.random.default_rng(0).normal(size=(100, 1024)).astype(np.float32)
    vectors[:, [7, 500, 900]] *= 300
    restored = {
        group: restore_evenly(quantise_evenly(vectors, 4, group), 4, 1024) for group in (64, 1024)
    }
    small = np.delete(np.arange(1024), [7, 500, 900])
    lost = {
        group: np.square(found - vectors)[:, small].sum() / np.square(vectors)[:, small].sum()
        for group, found in restored.items()
    }
    assert lost[64] < 0.25  # three groups of sixteen
    assert lost[1024] > 0.95


@pytest.mark.parametrize("bits", PUBLISHED)
@pytest.mark.parametrize("size", [1e-30, 1e-10, 1e10, 1e30])
def test_rotated_vectors_of_any_size_err_alike(bits: int, size: float) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 128)).astype(np.float32)
    plain, scaled = (
        quantise_rotated(vectors, bits),
        quantise_rotated(vectors * np.float32(size), bits),
    )
    assert (plain.codes != scaled.codes).mean() < 0.01
    np.testing.assert_allclose(scaled.scales / np.float32(size), plain.scales, rtol=1e-3)


def relative_error(vectors: np.ndarray, bits: int) -> float:
    restored = restore_rotated(quantise_rotated(vectors, bits), bits)
    return float(np.square(restored - vectors).sum() / np.square(vectors).sum())


@pytest.mark.parametrize("bits", PUBLISHED)
def test_the_scale_of_a_rotated_vector_is_the_best_one(bits: int) -> None:
    vectors = np.random.default_rng(1).normal(size=(5, 2, 64)).astype(np.float32)
    best = quantise_rotated(vectors, bits)

    def errors(factor: float) -> np.ndarray:
        restored = restore_rotated(Quantised(best.codes, best.scales * np.float32(factor)), bits)
        return np.square(restored - vectors).sum(axis=-1)

    assert (errors(1.0) < errors(0.99)).all()
    assert (errors(1.0) < errors(1.01)).all()


@pytest.mark.parametrize("bits", [2, 4])
def test_zeros_stay_zeros(bits: int) -> None:
    zeros = np.zeros((1, 2, 16), np.float32)
    assert not restore_rotated(quantise_rotated(zeros, bits), bits).any()
    assert not restore_evenly(quantise_evenly(zeros, bits, 8), bits, 16).any()
