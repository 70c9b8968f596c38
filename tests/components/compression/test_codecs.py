"""Codecs against numpy's own casts and hand-made outliers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components.compression import codecs

TOKENS = hnp.arrays(np.float32, (3, 2, 4), elements=st.floats(-65504, 65504, width=32))


@settings(max_examples=50, deadline=None)
@given(TOKENS)
def test_float32_round_trip_is_exact(tokens: np.ndarray) -> None:
    decoded = codecs.decode(codecs.encode(tokens, "float32"), "float32")
    np.testing.assert_array_equal(decoded, tokens)


@settings(max_examples=50, deadline=None)
@given(TOKENS)
def test_float16_round_trip_is_within_half_a_step(tokens: np.ndarray) -> None:
    decoded = codecs.decode(codecs.encode(tokens, "float16"), "float16")
    half_a_step = np.maximum(
        np.abs(tokens) * 2.0**-11, 2.0**-25
    )  # normal numbers have 11 bits, subnormals steps of 2^-24
    assert (np.abs(decoded - tokens) <= half_a_step).all()


@settings(max_examples=50, deadline=None)
@given(TOKENS)
def test_float16_round_trip_twice_changes_nothing(tokens: np.ndarray) -> None:
    once = codecs.encode(tokens, "float16")
    np.testing.assert_array_equal(codecs.encode(codecs.decode(once, "float16"), "float16"), once)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65520.0, -1e30])
def test_row_faults_names_the_bad_row_only(value: float) -> None:
    tokens = np.ones((4, 2, 3), np.float32)
    tokens[2, 1, 0] = value
    assert codecs.row_faults(tokens, "float16") == [None, None, "non_finite", None]


def test_row_faults_float32_holds_what_float16_cannot() -> None:
    assert codecs.row_faults(np.full((1, 1, 1), 65520.0, np.float32), "float32") == [None]


def test_row_faults_zero_mean_is_refused() -> None:
    tokens = np.array([[[1.0, 2.0], [-1.0, -2.0]], [[0.0, 0.0], [0.0, 1.0]]], np.float32)
    assert codecs.row_faults(tokens, "float16") == ["zero_norm", None]


def test_row_faults_underflow_to_zero_is_refused() -> None:
    assert codecs.row_faults(np.full((1, 2, 2), 1e-9, np.float32), "float16") == ["zero_norm"]


def test_unknown_codec_is_named() -> None:
    with pytest.raises(ValueError, match=r"'int3'.*float16, float32"):
        codecs.encode(np.ones((1, 1, 1), np.float32), "int3")  # type: ignore[arg-type]


def test_decode_other_type_is_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        codecs.decode(np.ones((1, 1, 1), np.float32), "float16")
