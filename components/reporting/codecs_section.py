"""Scores of stored tokens in fewer bytes: a table, and charts with the Pareto front."""

from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator, NullLocator

from components.reporting.inline_svg import add_point_tip, inline_svg, new_axes, page_style
from components.reporting.inputs import Row
from components.reporting.metric_tables import BLIND, COMPRESSED
from components.reporting.plots import ROUND, Chart, draw_baseline, draw_marker
from components.reporting.wording import percent

BYTES = "bytes_per_picture"
SMALL_RANGE = 0.02  # of scores, whose ticks need another decimal
SCORES = {
    "short_answer": "Short answers",
    "image_to_text": "Recall at 1, picture to text",
    "text_to_image": "Recall at 1, text to picture",
}


def pareto_front(codecs: Sequence[Row], score: str) -> list[Row]:
    """Return the codecs that no other beats in bytes and `score` at once, by bytes."""
    # from the smallest on, a codec must score higher than all before it
    front: list[Row] = []
    for row in sorted(codecs, key=lambda row: (row[BYTES], -row[score])):
        if not front or row[score] > front[-1][score]:
            front.append(row)
    return front


@page_style
def codec_chart(score: str, codecs: Sequence[Row]) -> Chart:
    """Draw one of SCORES against bytes per picture; the front is filled and joined."""
    axes = new_axes(320, 210, left=44, bottom=40)

    front = pareto_front(codecs, score)
    draw_baseline(axes, [(row[BYTES], row[score]) for row in front])
    for row in codecs:
        draw_marker(axes, COMPRESSED if row in front else BLIND, row[BYTES], row[score])

    # halves are equal steps
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda size, _: f"{size:.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("bytes per picture")
    axes.margins(x=0.06, y=0.08)

    # so many decimals that ticks read differently
    low, high = axes.get_ylim()
    decimals = 1 if high - low > SMALL_RANGE else 2
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
    axes.yaxis.set_major_formatter(lambda y, _: percent(y, decimals))

    # tips last, above all marks
    for row in codecs:
        text = f"{row['codec']}, {row[BYTES]} bytes: {percent(row[score])}"
        add_point_tip(axes, row[BYTES], row[score], text)

    title = SCORES[score]
    return Chart(title, inline_svg(axes, f"{title} against bytes per picture"))


def codec_rows(codecs: Sequence[Row]) -> list[tuple[Row, float, list[float]]]:
    """Return each codec, its share of the bytes of the largest, and its losses against that.

    Losses are in points, one for each of SCORES.
    """
    largest = max(codecs, key=lambda row: row[BYTES])
    rows = []
    for row in codecs:
        losses = [round(100 * (row[score] - largest[score]), 1) for score in SCORES]
        rows.append((row, row[BYTES] / largest[BYTES], losses))
    return rows
