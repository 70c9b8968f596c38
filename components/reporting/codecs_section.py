"""What stored tokens are worth in fewer bytes: a table, and charts with the Pareto front."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from components.reporting.geometry import Axis, Tick, Tip, padded, ticks, tip
from components.reporting.inputs import Row
from components.reporting.wording import percent

BYTES = "bytes_per_picture"
SMALL_RANGE = 0.02  # of scores, whose ticks need another decimal
SCORES = {
    "short_answer": "Short answers",
    "image_to_text": "Recall at 1, picture to text",
    "text_to_image": "Recall at 1, text to picture",
}


class Point(NamedTuple):
    """A codec in a chart."""

    x: float
    y: float
    is_best: bool  # no other takes at most as many bytes and scores at least as high
    tip: Tip


class CodecChart(NamedTuple):
    """A score against bytes per picture, on a logarithmic axis."""

    title: str
    width: float
    height: float
    frame: tuple[float, float, float, float]  # left, top, right, bottom
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    path: str  # through the points of the front
    points: list[Point]


def pareto_front(codecs: Sequence[Row], score: str) -> list[Row]:
    """The codecs that no other beats in bytes and `score` at once, by bytes."""
    front: list[Row] = []
    for row in sorted(codecs, key=lambda row: (row[BYTES], -row[score])):
        if not front or row[score] > front[-1][score]:
            front.append(row)
    return front


def codec_chart(score: str, codecs: Sequence[Row]) -> CodecChart:
    """`score` is one of SCORES."""
    width, height = 320.0, 210.0
    frame = (44.0, 14.0, width - 18, height - 34)
    sizes = sorted({row[BYTES] for row in codecs})
    x_axis = Axis(math.log2(sizes[0]), math.log2(sizes[-1]), frame[0] + 14, frame[2] - 14)
    low, high = padded(min(row[score] for row in codecs), max(row[score] for row in codecs))
    y_axis = Axis(low, high, frame[3], frame[1])
    front = pareto_front(codecs, score)
    places = {id(row): (x_axis.at(math.log2(row[BYTES])), y_axis.at(row[score])) for row in codecs}
    points = [
        Point(
            *places[id(row)],
            row in front,
            tip(*places[id(row)], f"{name(row)}: {percent(row[score])}", width),
        )
        for row in codecs
    ]
    powers = range(math.ceil(math.log2(sizes[0])), math.floor(math.log2(sizes[-1])) + 1)
    path = [places[id(row)] for row in front]
    return CodecChart(
        SCORES[score],
        width,
        height,
        frame,
        [Tick(x_axis.at(power), str(2**power)) for power in powers],
        [
            Tick(y_axis.at(y), percent(y, 1 if high - low > SMALL_RANGE else 2))
            for y in ticks(low, high, 4)
        ],
        " ".join(f"{'L' if index else 'M'}{x} {y}" for index, (x, y) in enumerate(path)),
        points,
    )


def name(row: Row) -> str:
    """A codec with its bytes: int8, 528 bytes."""
    return f"{row['codec']}, {row[BYTES]} bytes"


def codec_rows(codecs: Sequence[Row]) -> list[tuple[Row, float, list[float]]]:
    """Each codec, its share of the bytes of the largest, and what it loses of each score against that, in points."""
    largest = max(codecs, key=lambda row: row[BYTES])
    return [
        (
            row,
            row[BYTES] / largest[BYTES],
            [round(100 * (row[score] - largest[score]), 1) for score in SCORES],
        )
        for row in codecs
    ]
