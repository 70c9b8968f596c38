"""The front against a comparison of all pairs; positions against the scores."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.reporting.codecs_section import BYTES, codec_chart, codec_rows, pareto_front

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
    chart = codec_chart("short_answer", CODECS)
    assert [point.is_best for point in chart.points] == [False, True, False, True]
    fitted, int8 = chart.points[3], chart.points[1]
    assert chart.path == f"M{fitted.x} {fitted.y} L{int8.x} {int8.y}"
    assert chart.points[0].y == int8.y < fitted.y < chart.points[2].y  # up is better
    assert chart.points[0].x > int8.x > chart.points[2].x > fitted.x
    # halves are equal steps
    assert int8.x - chart.points[2].x == pytest.approx(chart.points[0].x - int8.x, abs=0.2)
    assert [tick.text for tick in chart.x_ticks] == ["64", "128", "256", "512", "1024"]


def test_losses_are_against_the_codec_with_most_bytes() -> None:
    rows = codec_rows(CODECS)
    assert [share for _, share, _ in rows] == [1, 0.5, 0.25, 0.0625]
    assert [losses for *_, losses in rows] == [[0, 0, 0], [0, -1, 1], [-20, -10, -10], [-1, 0, 0]]
