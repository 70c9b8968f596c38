"""The trained compressor from inside: norms of its adapters, captions from its first tokens, and
answers without some of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator
from PIL import Image

from components.pictures import PictureLimits, decode_picture
from components.reporting.attention_section import attention_charts, portraits
from components.reporting.inline_svg import COLOURS, add_tip, inline_svg, new_axes, page_style
from components.reporting.inputs import Points, Row, read_json
from components.reporting.metric_tables import CAPTION_SCORES, COMPRESSED, Score, to_score
from components.reporting.plots import (
    NUMBERS,
    ROUND,
    Chart,
    bar_axes,
    draw_baseline,
    draw_marker,
    draw_score,
    line_chart,
    start_at_zero_if_near,
)
from components.reporting.wording import percent

NORM_SIZE, KIND_SIZE = (320.0, 190.0), (210.0, 120.0)  # width and height of line charts
PARTS = ("norms", "query_attention", "answer_attention", "base_attention", "prefixes", "masks")


def read_seen(folder: Path, limits: PictureLimits) -> list[Image.Image]:
    """Read the pictures that attention is drawn over, in order of their numbers."""
    paths = sorted((folder / "pictures").glob("*.png"))
    return [decode_picture(path.read_bytes(), limits) for path in paths]


def read_inspection(folder: Path) -> Row:
    """Read the analysis that the stage wrote. Raises ValueError that names the file."""
    return read_json(folder / "inspection.json")


def inspection_content(
    inspection: Row, seen: Sequence[Image.Image], max_side: int
) -> dict[str, Any]:
    """Return the section of the page; a part that the compressor lacks is empty, with its reason.

    `seen`: the drawn pictures as the model reads them; none where attention cannot be drawn over
    them.
    """
    # parts, or the reasons that they are missing
    found, absent = {}, {}
    for name in PARTS:
        found[name] = inspection[name]["found"]
        if inspection[name]["reason"] is not None:
            absent[name] = inspection[name]["reason"]

    norms, prefixes, masks = found["norms"], found["prefixes"], found["masks"]

    return {
        "absent": absent,
        "num_tokens": inspection["num_summary_tokens"],
        "question": inspection["question"],
        "seed": inspection["seed"],
        "norm_charts": [norm_chart(norms)] if norms else [],
        "kind_charts": kind_charts(norms) if norms else [],
        "attention_charts": attention_charts(inspection),
        "portraits": portraits(inspection, seen, max_side),
        "prefix_charts": prefix_charts(prefixes) if prefixes else [],
        "captions": captions_by_budget(inspection["pictures"], found) if prefixes else [],
        "gaps": gap_rows(masks) if masks else [],
        "gap_chart": gap_chart(masks) if masks else None,
        "all_tokens": to_score(masks["whole"]) if masks else None,
    }


def norm_chart(norms: Row) -> Chart:
    """Draw a curve over the decoder layers, from 1, for each adapter."""
    curves = {}
    for adapter, values in norms["layers"].items():
        curves[adapter] = list(enumerate(values, 1))
    return line_chart("All linear layers", curves, NUMBERS, NORM_SIZE)


def kind_charts(norms: Row) -> list[Chart]:
    """Draw the curves of the adapters for each kind of linear layer."""
    # by kind of layer instead of by adapter; an adapter may lack a kind
    curves: dict[str, dict[str, Points]] = {}
    for adapter, kinds in norms["linears"].items():
        for kind, values in kinds.items():
            curves.setdefault(kind, {})[adapter] = list(enumerate(values, 1))

    return [line_chart(kind, adapters, NUMBERS, KIND_SIZE) for kind, adapters in curves.items()]


def prefix_charts(rows: Sequence[Row]) -> list[Chart]:
    """Draw each caption score against the number of first tokens; none if nothing was scored."""
    charts = []
    for key, label in CAPTION_SCORES.items():
        if key in rows[0]["scores"]:
            scores = {}
            for row in rows:
                scores[row["num_tokens"]] = to_score(row["scores"][key])
            charts.append(prefix_chart(label, scores))
    return charts


@page_style
def prefix_chart(label: str, scores: Mapping[int, Score]) -> Chart:
    """Draw scores with their intervals by number of tokens."""
    axes = new_axes(320, 210, left=44, bottom=40)

    # a dashed line, since nothing was measured between
    draw_baseline(axes, [(num_tokens, score.value) for num_tokens, score in scores.items()])
    for num_tokens, score in scores.items():
        text = f"{score.value:.3f} [{score.low:.3f}–{score.high:.3f}]"
        draw_score(axes, COMPRESSED, num_tokens, score, text)

    axes.margins(x=0.06, y=0.06)
    start_at_zero_if_near(axes)
    axes.set_xticks(list(scores))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
    axes.yaxis.set_major_formatter("{x:.4g}")
    axes.set_xlabel("first summary tokens")
    return Chart(label, inline_svg(axes, f"{label} of captions against the first summary tokens"))


def captions_by_budget(pictures: Sequence[Row], found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return for each picture a reference, its captions by number of tokens, and the base's."""
    base = found["base_attention"]
    rows = []
    for index, picture in enumerate(pictures):
        # a row of the prefixes is a number of tokens, with a caption of every picture
        captions = [(row["num_tokens"], row["captions"][index]) for row in found["prefixes"]]
        row = {
            "image_id": picture["image_id"],
            "reference": picture["references"][0] if picture["references"] else None,
            "captions": captions,
            "base": base["pictures"][index]["caption"] if base else None,
        }
        rows.append(row)
    return rows


def group_name(tokens: Sequence[int]) -> str:
    """Return [0] as "token 1", [4, 5, 6] as "tokens 5–7"."""
    first, last = tokens[0] + 1, tokens[-1] + 1
    return f"token {first}" if len(tokens) == 1 else f"tokens {first}–{last}"


def points(share: float) -> str:
    """Return a difference of shares in points: -0.052 as −5.2."""
    return f"{100 * share:+.1f}".replace("-", "−")


def gap_rows(masks: Row) -> list[tuple[str, Score, str, str]]:
    """Return (name, accuracy without it, difference, its interval) of every group."""
    rows = []
    for group in masks["groups"]:
        gap = group["difference"]
        interval = f"{points(gap['low'])} … {points(gap['high'])}"
        accuracy = to_score(group["accuracy"])
        rows.append((group_name(group["tokens"]), accuracy, points(gap["difference"]), interval))
    return rows


@page_style
def gap_chart(masks: Row) -> Chart:
    """Draw the change of accuracy without each group; zero is the accuracy with all tokens."""
    groups = masks["groups"]
    names = [group_name(group["tokens"]) for group in groups]
    axes = bar_axes(names, 460, left=96, right=14, bottom=20)
    axes.grid(visible=True, axis="x")

    # a lane for each group, to the left of zero where it is missed
    axes.axvline(0, color=COLOURS["soft"], linewidth=1.6)
    for y, group in enumerate(groups):
        gap = group["difference"]
        axes.hlines(y, gap["low"], gap["high"], color=COLOURS[COMPRESSED], alpha=0.45)
        draw_marker(axes, COMPRESSED, gap["difference"], y)

        lane = axes.axhspan(y - 0.5, y + 0.5, color=COLOURS["card"])
        without = percent(group["accuracy"]["accuracy"])
        add_tip(lane, f"{points(gap['difference'])} points: {without}")

    axes.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
    axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:+.4g}".replace("-", "−") if x else "0")
    label = "Change of the accuracy of short answers without a group of summary tokens"
    return Chart("Without it, in points of short answers", inline_svg(axes, label))
