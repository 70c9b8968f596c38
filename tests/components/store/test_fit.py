"""Fitted codecs against scipy's normal distribution, brute-force allotment and known shapes."""

from itertools import product

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from components.store import codecs
from components.store.fit import (
    MAX_BITS,
    allot_bits,
    fit_bytes,
    fit_directions,
    gaussian_errors,
    quantise_fitted,
    read_fit,
    restore_fitted,
)
from components.store.quantisation import gaussian_levels


def corpus(pictures: int, numbers: int, directions: int, seed: int = 0) -> np.ndarray:
    """Draw vectors far from zero along a few directions, each half as long as the one before."""
    rng = np.random.default_rng(7)
    basis, _ = np.linalg.qr(rng.normal(size=(numbers, directions)))
    mean = 5 * rng.normal(size=numbers)
    mixtures = np.random.default_rng(seed).normal(size=(pictures, directions)) * 0.5 ** np.arange(
        directions
    )
    return (mixtures @ basis.T + mean).astype(np.float32)


@pytest.mark.parametrize("bits", [1, 3, 6, 8])
def test_gaussian_errors_are_those_of_an_integral(bits: int) -> None:
    levels = gaussian_levels(bits).astype(float)

    def error(number: float) -> float:
        return np.square(levels - number).min() * scipy.stats.norm.pdf(number)

    edges = (levels[1:] + levels[:-1]) / 2
    expected, _ = scipy.integrate.quad(error, -12, 12, points=edges, limit=600)
    assert gaussian_errors()[bits] == pytest.approx(expected, rel=1e-4)


def test_bits_go_where_they_lower_the_error_most() -> None:
    variances, total = np.array([9.0, 2.0, 0.3]), 6
    errors = gaussian_errors()
    ways = [way for way in product(range(total + 1), repeat=3) if sum(way) == total]
    best = min(
        ways, key=lambda way: sum(v * errors[b] for v, b in zip(variances, way, strict=True))
    )
    assert tuple(allot_bits(variances, total)) == best


def test_no_direction_gets_more_bits_than_there_are_levels() -> None:
    assert allot_bits(np.array([1e9, 1.0]), 1000).tolist() == [MAX_BITS, MAX_BITS]


# fewer and more than pictures: both ways to find the directions
@pytest.mark.parametrize("numbers", [24, 600])
def test_other_pictures_of_the_corpus_are_as_near_as_their_bits_allow(numbers: int) -> None:
    fit = fit_directions(corpus(400, numbers, 6), 4)
    others = corpus(300, numbers, 6, seed=1)
    found = restore_fitted(quantise_fitted(others, fit), fit)
    variances = 0.25 ** np.arange(6)
    expected = (variances * gaussian_errors()[allot_bits(variances, 32)]).sum()
    assert np.square(found - others).sum(axis=1).mean() == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("numbers", [24, 600])
def test_directions_are_orthonormal_and_in_order(numbers: int) -> None:
    fit = fit_directions(corpus(100, numbers, 6), 5)
    np.testing.assert_allclose(fit.directions @ fit.directions.T, np.eye(len(fit.bits)), atol=1e-5)
    assert (np.diff(fit.bits.astype(int)) <= 0).all()
    assert fit.bits.min() >= 1


def test_a_picture_takes_the_bytes_it_was_given_or_what_the_corpus_needs() -> None:
    vectors = corpus(100, 24, 6)
    for num_bytes in (1, 3, 6):
        fit = fit_directions(vectors, num_bytes)
        assert fit.num_bytes == num_bytes
        assert quantise_fitted(vectors[:7], fit).shape == (7, num_bytes)
    noise = np.random.default_rng(0).normal(size=(20, 600)).astype(np.float32)
    # 20 pictures span 19 directions, of 8 bits each
    assert fit_directions(noise, 1000).num_bytes == 19


def test_equal_pictures_give_equal_bytes_that_are_read_back() -> None:
    first, again = (fit_directions(corpus(50, 24, 6), 4) for _ in range(2))
    assert fit_bytes(first) == fit_bytes(again)
    for ours, theirs in zip(read_fit(fit_bytes(first)), first, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="no fit"):
        read_fit(b"something else")


def test_too_few_or_equal_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="15 pictures are too few"):
        fit_directions(corpus(15, 24, 6), 4)
    with pytest.raises(ValueError, match="same summary tokens"):
        fit_directions(np.ones((20, 24), np.float32), 4)


def test_codec_encodes_by_its_fit_alone() -> None:
    tokens = corpus(40, 24, 6).reshape(40, 3, 8)
    fit = fit_directions(tokens.reshape(40, -1), 4)
    stored = codecs.encode(tokens, "fitted", fit)
    value, shape = codecs.code_type("fitted", 3, 8, fit)
    assert (stored.codes.dtype, stored.codes.shape, str(value)) == (np.uint8, (40, *shape), "uint8")
    assert codecs.decode(stored, "fitted", 8, fit).shape == tokens.shape
    assert codecs.picture_bytes("fitted", 3, 8, fit) == 4
    far = np.full((1, 3, 8), 1e30, np.float32)
    assert np.isfinite(codecs.decode(codecs.encode(far, "fitted", fit), "fitted", 8, fit)).all()
    with pytest.raises(ValueError, match="only fitted has a fit"):
        codecs.encode(tokens, "fitted")
    with pytest.raises(ValueError, match="only fitted has a fit"):
        codecs.encode(tokens, "int8", fit)
    with pytest.raises(ValueError, match="fitted to 24 numbers, not to 2 × 8"):
        codecs.code_type("fitted", 2, 8, fit)
