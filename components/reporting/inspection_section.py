"""What the compressor has become: norms of adapters, captions from the first tokens, answers without some of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from components.pictures import PictureLimits, decode_picture
from components.reporting.attention_section import attention_charts, portraits
from components.reporting.geometry import Axis, Tick, Tip, padded, ticks, tip
from components.reporting.inputs import Row, read_json
from components.reporting.metric_tables import CAPTION_SCORES, COMPRESSED, Score, to_score
from components.reporting.plots import NUMBERS, Chart, Mark, TokenChart, line_chart
from components.reporting.wording import percent

NORM_SIZE, KIND_SIZE = (320.0, 190.0), (210.0, 120.0)  # width and height of line charts
LANE, LABELS = 34.0, 96.0  # height of a group, and width of its name
PARTS = ("norms", "query_attention", "answer_attention", "base_attention", "prefixes", "masks")


class Gap(NamedTuple):
    """What leaving a group of summary tokens out changes; positions along x."""

    label: str
    y: float
    x: float
    low: float
    high: float
    tip: Tip


class GapChart(NamedTuple):
    """Differences to all summary tokens, in points, a lane for every group."""

    width: float
    height: float
    left: float
    zero: float
    ticks: list[Tick]
    gaps: list[Gap]


def read_seen(folder: Path, limits: PictureLimits) -> list[Image.Image]:
    """The pictures that attention is drawn over, by their numbers."""
    return [
        decode_picture(path.read_bytes(), limits)
        for path in sorted((folder / "pictures").glob("*.png"))
    ]


def read_analysis(folder: Path) -> Row:
    """Raises ValueError that names the file."""
    return read_json(folder / "inspection.json")


def analysis_content(analysis: Row, seen: Sequence[Image.Image], max_side: int) -> dict[str, Any]:
    """What the template shows; a part that the compressor does not have is empty, and has its reason.

    `seen`: the drawn pictures as the model reads them; none where attention cannot be drawn over
    them.
    """
    found = {name: analysis[name]["found"] for name in PARTS}
    return {
        "absent": {
            name: reason for name in PARTS if (reason := analysis[name]["reason"]) is not None
        },
        "num_tokens": analysis["num_summary_tokens"],
        "question": analysis["question"],
        "seed": analysis["seed"],
        "norm_charts": norm_charts(found["norms"]) if found["norms"] else [],
        "kind_charts": kind_charts(found["norms"]) if found["norms"] else [],
        "attention_charts": attention_charts(analysis),
        "portraits": portraits(analysis, seen, max_side),
        "prefix_charts": prefix_charts(found["prefixes"]) if found["prefixes"] else [],
        "told": told(analysis["pictures"], found) if found["prefixes"] else [],
        "gaps": gap_rows(found["masks"]) if found["masks"] else [],
        "gap_chart": gap_chart(found["masks"]) if found["masks"] else None,
        "whole": to_score(found["masks"]["whole"]) if found["masks"] else None,
    }


def by_number(values: Sequence[float]) -> list[tuple[float, float]]:
    """Points of a curve over layers, which count from 1."""
    return [(float(number), value) for number, value in enumerate(values, 1)]


def norm_charts(norms: Row) -> list[Chart]:
    """One chart with a curve for each adapter, over the decoder layers."""
    curves = {adapter: by_number(values) for adapter, values in norms["layers"].items()}
    return [line_chart("All linear layers", curves, NUMBERS, NORM_SIZE)]


def kind_charts(norms: Row) -> list[Chart]:
    """The same for each kind of linear layer."""
    kinds = list(
        dict.fromkeys(kind for of_adapter in norms["linears"].values() for kind in of_adapter)
    )
    return [
        line_chart(
            kind,
            {
                adapter: by_number(found[kind])
                for adapter, found in norms["linears"].items()
                if kind in found
            },
            NUMBERS,
            KIND_SIZE,
        )
        for kind in kinds
    ]


def prefix_charts(rows: Sequence[Row]) -> list[TokenChart]:
    """Each caption score against the number of first tokens; none where no caption was scored."""
    return [
        prefix_chart(label, [(row["num_tokens"], to_score(row["scores"][key])) for row in rows])
        for key, label in CAPTION_SCORES.items()
        if key in rows[0]["scores"]
    ]


def prefix_chart(label: str, scores: Sequence[tuple[int, Score]]) -> TokenChart:
    """Scores with their intervals."""
    width, height = 320.0, 210.0
    frame = (44.0, 14.0, width - 18, height - 34)
    x_axis = Axis(scores[0][0], scores[-1][0], frame[0] + 14, frame[2] - 14)
    low, high = padded(
        min(score.low for _, score in scores), max(score.high for _, score in scores)
    )
    y_axis = Axis(low, high, frame[3], frame[1])
    marks = []
    for number, score in scores:
        x, y = x_axis.at(number), y_axis.at(score.value)
        text = f"{score.value:.3f} [{score.low:.3f}–{score.high:.3f}]"
        marks.append(
            Mark(
                COMPRESSED,
                x,
                y,
                y_axis.at(score.low),
                y_axis.at(score.high),
                tip(x, y, text, width),
            )
        )
    path = " ".join(f"{'L' if index else 'M'}{mark.x} {mark.y}" for index, mark in enumerate(marks))
    x_ticks = [Tick(x_axis.at(number), str(number)) for number, _ in scores]
    y_ticks = [Tick(y_axis.at(y), f"{y:.4g}") for y in ticks(low, high, 4)]
    return TokenChart(label, width, height, frame, x_ticks, y_ticks, path, marks)


def told(pictures: Sequence[Row], found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each picture: a reference, its captions by number of tokens, and that of the base model."""
    base = found["base_attention"]
    return [
        {
            "image_id": picture["image_id"],
            "reference": picture["references"][0] if picture["references"] else None,
            "captions": [(row["num_tokens"], row["captions"][number]) for row in found["prefixes"]],
            "base": base["pictures"][number]["caption"] if base else None,
        }
        for number, picture in enumerate(pictures)
    ]


def group_name(tokens: Sequence[int]) -> str:
    """Tokens [0] as "token 1", [4, 5, 6] as "tokens 5–7"."""
    return (
        f"token {tokens[0] + 1}" if len(tokens) == 1 else f"tokens {tokens[0] + 1}–{tokens[-1] + 1}"
    )


def points(share: float) -> str:
    """A difference of shares, in points: -0.052 as −5.2."""
    return f"{100 * share:+.1f}".replace("-", "−")


def gap_rows(masks: Row) -> list[tuple[str, Score, str, str]]:
    """(name, accuracy without it, difference, its interval) of every group."""
    return [
        (
            group_name(row["tokens"]),
            to_score(row["accuracy"]),
            points(row["difference"]["difference"]),
            f"{points(row['difference']['low'])} … {points(row['difference']['high'])}",
        )
        for row in masks["groups"]
    ]


def gap_chart(masks: Row) -> GapChart:
    """Zero is what all tokens reach."""
    width = 460.0
    differences = [row["difference"] for row in masks["groups"]]
    low, high = padded(
        min(0.0, *(d["low"] for d in differences)), max(0.0, *(d["high"] for d in differences))
    )
    x_axis = Axis(low, high, LABELS, width - 14)
    gaps = []
    for number, (row, difference) in enumerate(zip(masks["groups"], differences, strict=True)):
        x, y = x_axis.at(difference["difference"]), round(LANE * (number + 0.5), 1)
        without = percent(row["accuracy"]["accuracy"])
        shown = tip(x, y, f"{points(difference['difference'])} points: {without}", width)
        gaps.append(
            Gap(
                group_name(row["tokens"]),
                y,
                x,
                x_axis.at(difference["low"]),
                x_axis.at(difference["high"]),
                shown,
            )
        )
    shown_ticks = [
        Tick(x_axis.at(x), f"{100 * x:+.4g}".replace("-", "−") if x else "0")
        for x in ticks(low, high, 6)
    ]
    return GapChart(width, LANE * len(gaps) + 18, LABELS, x_axis.at(0.0), shown_ticks, gaps)
