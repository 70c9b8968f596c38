"""Codecs against numpy's own casts and hand-made outliers."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components.store import codecs


def faults(tokens: np.ndarray, codec: codecs.Codec) -> list[codecs.Fault | None]:
    return codecs.encode_checked(tokens, codec)[1]


TOKENS = hnp.arrays(np.float32, (3, 2, 4), elements=st.floats(-65504, 65504, width=32))


@settings(max_examples=50, deadline=None)
@given(TOKENS)
def test_float32_round_trip_is_exact(tokens: np.ndarray) -> None:
    decoded = codecs.decode(codecs.encode(tokens, "float32"), "float32", 4)
    np.testing.assert_array_equal(decoded, tokens)


@settings(max_examples=50, deadline=None)
@given(TOKENS)
def test_float16_round_trip_is_within_half_a_step(tokens: np.ndarray) -> None:
    decoded = codecs.decode(codecs.encode(tokens, "float16"), "float16", 4)
    half_a_step = np.maximum(
        np.abs(tokens) * 2.0**-11, 2.0**-25
    )  # normal numbers have 11 bits, subnormals steps of 2^-24
    assert (np.abs(decoded - tokens) <= half_a_step).all()


@settings(max_examples=50, deadline=None)
@given(TOKENS)
def test_float16_round_trip_twice_changes_nothing(tokens: np.ndarray) -> None:
    once = codecs.encode(tokens, "float16")
    np.testing.assert_array_equal(
        codecs.encode(codecs.decode(once, "float16", 4), "float16").codes, once.codes
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65520.0, -1e30])
def test_faults_names_the_bad_row_only(value: float) -> None:
    tokens = np.ones((4, 2, 3), np.float32)
    tokens[2, 1, 0] = value
    assert faults(tokens, "float16") == [None, None, "non_finite", None]


def test_faults_float32_holds_what_float16_cannot() -> None:
    assert faults(np.full((1, 1, 1), 65520.0, np.float32), "float32") == [None]


def test_faults_zero_mean_is_refused() -> None:
    tokens = np.array([[[1.0, 2.0], [-1.0, -2.0]], [[0.0, 0.0], [0.0, 1.0]]], np.float32)
    assert faults(tokens, "float16") == ["zero_norm", None]


def test_faults_underflow_to_zero_is_refused() -> None:
    assert faults(np.full((1, 2, 2), 1e-9, np.float32), "float16") == ["zero_norm"]


def test_unknown_codec_is_named() -> None:
    with pytest.raises(ValueError, match=r"'int3'.*float32, float16"):
        codecs.encode(np.ones((1, 1, 1), np.float32), "int3")  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", codecs.CODECS)
def test_decode_other_type_is_refused(codec: codecs.Codec) -> None:
    stored = codecs.encode(np.ones((1, 1, 64), np.float32), codec)
    other = stored._replace(codes=stored.codes.astype(np.int64))
    with pytest.raises(ValueError, match=f"codec {codec} cannot decode values of type int64"):
        codecs.decode(other, codec, 64)


@pytest.mark.parametrize("codec", codecs.CODECS)
@pytest.mark.parametrize("dim", [8, 24, 128])
def test_encoded_values_have_the_type_and_the_size_that_the_file_has(
    codec: codecs.Codec, dim: int
) -> None:
    tokens = np.random.default_rng(0).normal(size=(3, 2, dim)).astype(np.float32)
    codes, scales = codecs.encode(tokens, codec)
    value, shape = codecs.code_type(codec, 2, dim)
    assert pa.from_numpy_dtype(codes.dtype) == value
    assert codes.shape == (3, *shape)
    assert scales.shape == (3, 2, codecs.num_scales(codec, dim))
    assert codes.nbytes + scales.nbytes == 3 * codecs.picture_bytes(codec, 2, dim)


@pytest.mark.parametrize(
    ("codec", "error"),
    [("int8", 0.01), ("int4", 0.15), ("rotated4", 0.11), ("rotated3", 0.2), ("rotated2", 0.36)],
)
def test_quantised_tokens_are_as_near_as_their_bits_allow(
    codec: codecs.Codec, error: float
) -> None:
    """Relative error of normal numbers: 0.9 % for 8 bits, 9.8, 18.6, 34 % for 4, 3, 2 rotated."""
    tokens = np.random.default_rng(0).normal(size=(20, 4, 1024)).astype(np.float32)
    decoded = codecs.decode(codecs.encode(tokens, codec), codec, 1024)
    assert 0.5 * error < np.linalg.norm(decoded - tokens) / np.linalg.norm(tokens) < error


@pytest.mark.parametrize("codec", codecs.CODECS)
def test_a_row_does_not_depend_on_the_others(codec: codecs.Codec) -> None:
    tokens = np.random.default_rng(0).normal(size=(5, 2, 64)).astype(np.float32)
    together = codecs.encode(tokens, codec)
    for row in range(5):
        alone = codecs.encode(tokens[row : row + 1], codec)
        np.testing.assert_array_equal(alone.codes[0], together.codes[row])
        np.testing.assert_array_equal(alone.scales[0], together.scales[row])


@pytest.mark.parametrize("codec", codecs.CODECS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_faults_of_every_codec_find_what_is_not_finite(codec: codecs.Codec, value: float) -> None:
    tokens = np.ones((3, 2, 64), np.float32)
    tokens[1, 0, 0] = value
    assert faults(tokens, codec) == [None, "non_finite", None]


@pytest.mark.parametrize("codec", codecs.CODECS)
def test_no_rows_are_encoded_and_decoded(codec: codecs.Codec) -> None:
    tokens = np.empty((0, 2, 64), np.float32)
    assert codecs.decode(codecs.encode(tokens, codec), codec, 64).shape == (0, 2, 64)
    assert faults(tokens, codec) == []


@pytest.mark.parametrize("codec", codecs.CODECS)
def test_faults_of_zeros(codec: codecs.Codec) -> None:
    assert faults(np.zeros((1, 2, 64), np.float32), codec) == ["zero_norm"]


def test_tokens_that_would_end_within_a_byte_are_refused() -> None:
    with pytest.raises(
        ValueError, match="rotated3 needs a dim that is a multiple of 8, not 12; take int8"
    ):
        codecs.code_type("rotated3", 2, 12)
