"""What attends to what, drawn: heat over pictures, heat over the words of an answer, and how much there is of it."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from components.reporting.inputs import Row
from components.reporting.plots import NUMBERS, Chart, Values, line_chart
from components.reporting.thumbnails import Thumbnail, thumbnail
from components.reporting.wording import percent, whole_percent

HEAT = (234, 88, 12)  # colour of attention, over a picture without colours
STRONGEST = 0.92  # opacity of the largest weight of a map
SIZE = (250.0, 150.0)  # of charts
# of the grid of words and summary tokens
ROW, COLUMN, LONGEST_GRID, WORDS = 15.0, 24.0, 200.0, 70.0
SHARE = Values(None, percent, whole_percent)


class HeatMap(NamedTuple):
    """A map to lay over a picture."""

    label: str
    uri: str  # a cell is a pixel; transparent where nothing attends
    share: float  # of all attention that goes to the image tokens, 0 … 1


class WordGrid(NamedTuple):
    """The words of an answer against the summary tokens; positions in units of its drawing."""

    width: float
    height: float
    left: float  # where the grid begins
    top: float
    uri: str  # a cell is a pixel
    words: list[tuple[float, str]]  # position and text; "" where the answer ends
    tokens: list[tuple[float, str]]  # position and number, from 1


class Portrait(NamedTuple):
    """One picture and all attention that is drawn of it."""

    image_id: str
    colour: Thumbnail | None  # as the model reads it; None if its image tokens have no places on it
    grey: Thumbnail | None
    base: HeatMap | None  # of the base model's answer
    whole: HeatMap | None  # of all summary queries
    queries: list[HeatMap]  # of each
    # number from 1, `base` and `whole` in that layer
    layers: list[tuple[int, HeatMap | None, HeatMap | None]]
    answer: WordGrid | None


def heat_uri(weights: np.ndarray, highest: float) -> str:
    """(rows, columns) as a picture of so many pixels: the more opaque, the nearer to `highest`."""
    pixels = np.empty((*weights.shape, 4), np.uint8)
    pixels[..., :3] = HEAT
    pixels[..., 3] = np.round(255 * STRONGEST * weights / (highest or 1.0))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def heat_map(label: str, weights: np.ndarray, side: int) -> HeatMap:
    """Weights (side · side) of image tokens, row by row; a map has its own scale."""
    return HeatMap(
        label, heat_uri(weights.reshape(side, side), float(weights.max())), float(weights.sum())
    )


def word_grid(maps: Row) -> WordGrid:
    """Steps of an answer down, summary tokens across."""
    steps = np.array(maps["steps"])
    num_steps, num_tokens = steps.shape
    column, top = min(COLUMN, LONGEST_GRID / num_tokens), 16.0
    numbered = range(0, num_tokens, math.ceil(14 / column))  # numbers that do not touch
    return WordGrid(
        round(WORDS + column * num_tokens, 1),
        top + ROW * num_steps,
        WORDS,
        top,
        heat_uri(steps, float(steps.max())),
        [(top + ROW * (step + 0.72), word.strip()) for step, word in enumerate(maps["words"])],
        [(round(WORDS + column * (token + 0.5), 1), str(token + 1)) for token in numbered],
    )


def portraits(analysis: Row, seen: Sequence[Image.Image], max_side: int) -> list[Portrait]:
    """Every drawn picture; `seen` are these pictures as the model reads them, or none."""
    found = []
    for number, row in enumerate(analysis["pictures"]):
        queries, base, answer = (
            of_picture(analysis[f"{name}_attention"], number) for name in PARTS
        )
        whole = (
            heat_map("all queries", np.mean(queries["layers"], axis=0), queries["side"])
            if queries
            else None
        )
        answered = (
            heat_map("base model", np.mean(base["layers"], axis=0), base["side"]) if base else None
        )
        image = seen[number] if seen else None
        found.append(
            Portrait(
                row["image_id"],
                thumbnail(image, max_side) if image else None,
                thumbnail(image.convert("L").convert("RGB"), max_side) if image else None,
                answered,
                whole,
                query_maps(queries) if queries else [],
                layer_maps(base, queries),
                word_grid(answer) if answer else None,
            )
        )
    return found


PARTS = ("query", "base", "answer")


def of_picture(part: Row, number: int) -> Row | None:
    """What a part has about one of the drawn pictures."""
    found = part["found"]
    return found and {"side": found.get("side"), **found["pictures"][number]}


def query_maps(queries: Row) -> list[HeatMap]:
    """One map for each summary query."""
    return [
        heat_map(f"query {number}", np.array(weights), queries["side"])
        for number, weights in enumerate(queries["queries"], 1)
    ]


def layer_maps(
    base: Row | None, queries: Row | None
) -> list[tuple[int, HeatMap | None, HeatMap | None]]:
    """The maps of every layer, of whichever there is."""
    columns = [
        [
            heat_map(f"layer {number}", np.array(weights), maps["side"])
            for number, weights in enumerate(maps["layers"], 1)
        ]
        if maps
        else None
        for maps in (base, queries)
    ]
    num_layers = max((len(column) for column in columns if column), default=0)
    return [
        (layer + 1, *(column[layer] if column else None for column in columns))  # type: ignore[misc]
        for layer in range(num_layers)
    ]


def attention_charts(analysis: Row) -> list[Chart]:
    """How much attention goes to a picture or to its summary tokens, how far it is spread; means over the pictures."""
    layers = {name: mean_over_pictures(analysis[f"{name}_attention"], "layers") for name in PARTS}
    on_picture = {
        label: layers[name]
        for name, label in (("query", "summary queries"), ("base", "base model"))
        if layers[name] is not None
    }
    charts = []
    if on_picture:
        charts.append(
            chart("Share on the picture", {k: w.sum(1) for k, w in on_picture.items()}, SHARE)
        )
        charts.append(
            chart("Image tokens reached", {k: spread(w) for k, w in on_picture.items()}, NUMBERS)
        )
    if layers["answer"] is not None:
        charts.append(chart("Share on summary tokens", {"answers": layers["answer"].sum(1)}, SHARE))
        charts.append(chart("By summary token", {"answers": layers["answer"].mean(0)}, SHARE))
    return charts


def mean_over_pictures(part: Row, key: str) -> Any:
    """(layers, tokens), or None where there is nothing."""
    if not part["found"] or not part["found"]["pictures"]:
        return None
    return np.mean([maps[key] for maps in part["found"]["pictures"]], axis=0)


def spread(weights: np.ndarray) -> np.ndarray:
    """(layers, tokens) -> (layers,): the number of tokens that equal shares with the same entropy would go to."""
    shares = weights / weights.sum(1, keepdims=True)
    return np.exp(-(shares * np.log(np.maximum(shares, 1e-12))).sum(1))


def chart(title: str, curves: dict[str, np.ndarray], values: Values) -> Chart:
    """Curves over the numbers from 1."""
    points = {
        name: [(float(x), float(y)) for x, y in enumerate(curve, 1)]
        for name, curve in curves.items()
    }
    return line_chart(title, points, values, SIZE)
