"""The front against a comparison of all pairs; positions against the scores."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.reporting.codecs_section import BYTES, codec_chart, codec_rows, pareto_front
from tests.components.reporting.drawings import read_drawing

CODECS = [
    {
        "codec": "float16",
        BYTES: 1024,
        "short_answer": 0.9,
        "image_to_text": 0.8,
        "text_to_image": 0.6,
    },
    {
        "codec": "int8",
        BYTES: 512,
        "short_answer": 0.9,
        "image_to_text": 0.79,
        "text_to_image": 0.61,
    },
    {"codec": "int4", BYTES: 256, "short_answer": 0.7, "image_to_text": 0.7, "text_to_image": 0.5},
    {
        "codec": "fitted",
        BYTES: 64,
        "short_answer": 0.89,
        "image_to_text": 0.8,
        "text_to_image": 0.6,
    },
]


def is_beaten(row: dict[str, Any], others: list[dict[str, Any]]) -> bool:
    return any(
        other[BYTES] <= row[BYTES]
        and other["short_answer"] >= row["short_answer"]
        and (other[BYTES], other["short_answer"]) != (row[BYTES], row["short_answer"])
        for other in others
    )


@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=12, unique=True
    )
)
def test_on_the_front_is_what_no_other_beats(found: list[tuple[int, int]]) -> None:
    rows = [{"codec": "x", BYTES: size, "short_answer": score / 20} for size, score in found]
    front = pareto_front(rows, "short_answer")
    assert sorted(map(str, front)) == sorted(str(row) for row in rows if not is_beaten(row, rows))


def test_chart_has_every_codec_and_a_line_through_the_front() -> None:
    drawing = read_drawing(codec_chart("short_answer", CODECS).svg)
    places = {tip.split(",")[0]: place for tip, place in drawing.tips.items()}
    float16, int8, int4, fitted = (places[row["codec"]] for row in CODECS)
    assert drawing.lines["var(--faint)"] == [[fitted, int8]]
    assert drawing.marks["var(--compressed)"] == [int8, fitted]
    assert drawing.marks["var(--card)"] == [float16, int4]
    assert float16[1] == int8[1] < fitted[1] < int4[1]  # up is better
    assert float16[0] > int8[0] > int4[0] > fitted[0]
    # halves are equal steps
    assert int8[0] - int4[0] == pytest.approx(float16[0] - int8[0], abs=0.2)
    assert {"64", "128", "256", "512", "1024", "bytes per picture"} <= drawing.texts.keys()
    assert "int8, 512 bytes: 90.0%" in drawing.tips


def test_losses_are_against_the_codec_with_most_bytes() -> None:
    rows = codec_rows(CODECS)
    assert [share for _, share, _ in rows] == [1, 0.5, 0.25, 0.0625]
    assert [losses for *_, losses in rows] == [[0, 0, 0], [0, -1, 1], [-20, -10, -10], [-1, 0, 0]]
