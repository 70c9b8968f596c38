"""Attention, drawn: heat over pictures, heat over the words of an answer, and its amounts."""

import base64
import io
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from components.reporting.inputs import Points, Row
from components.reporting.plots import NUMBERS, Chart, Values, line_chart
from components.reporting.thumbnails import Thumbnail, thumbnail
from components.reporting.wording import percent, whole_percent

HEAT = (234, 88, 12)  # colour of attention, over a picture without colours
STRONGEST = 0.92  # opacity of the largest weight of a map
SIZE = (250.0, 150.0)  # of charts
COLUMN, LONGEST_GRID = 24, 200  # of the grid of words and summary tokens, in pixels
SHARE = Values(None, percent, whole_percent)


class HeatMap(NamedTuple):
    """A map to lay over a picture."""

    label: str
    uri: str  # a cell is a pixel; transparent where nothing attends
    share: float  # of all attention that goes to the image tokens, 0 … 1


class WordGrid(NamedTuple):
    """The words of an answer, each a row of heat over the summary tokens."""

    words: list[str]  # "" where the answer ends
    num_tokens: int
    uri: str  # a cell is a pixel
    width: int  # on the page, in pixels


class LayerMaps(NamedTuple):
    """The maps of one layer; None where there are none."""

    number: int  # from 1
    base: HeatMap | None
    queries: HeatMap | None


class Portrait(NamedTuple):
    """One picture and all attention that is drawn of it."""

    image_id: str
    colour: Thumbnail | None  # as the model reads it; None if its image tokens have no places on it
    grey: Thumbnail | None
    base: HeatMap | None  # of the base model's answer
    all_queries: HeatMap | None
    queries: list[HeatMap]  # of each
    layers: list[LayerMaps]
    answer: WordGrid | None


def heat_uri(weights: np.ndarray, highest: float) -> str:
    """Return weights (rows, columns) as a PNG of one pixel each, opaque near `highest`."""
    pixels = np.empty((*weights.shape, 4), np.uint8)
    pixels[..., :3] = HEAT
    pixels[..., 3] = np.round(255 * STRONGEST * weights / (highest or 1.0))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def heat_map(label: str, weights: np.ndarray, side: int) -> HeatMap:
    """Return weights (side · side) of image tokens, row by row, as a map with its own scale."""
    uri = heat_uri(weights.reshape(side, side), float(weights.max()))
    return HeatMap(label, uri, float(weights.sum()))


def word_grid(maps: Row) -> WordGrid:
    """Return the grid of an answer: its steps down, summary tokens across."""
    steps, words = np.array(maps["steps"]), list(map(str.strip, maps["words"]))
    num_tokens = steps.shape[1]
    width = min(COLUMN * num_tokens, LONGEST_GRID)
    return WordGrid(words, num_tokens, heat_uri(steps, float(steps.max())), width)


def portraits(inspection: Row, seen: Sequence[Image.Image], max_side: int) -> list[Portrait]:
    """Return every drawn picture; `seen` are these pictures as the model reads them, or none."""
    drawn = []
    for index, row in enumerate(inspection["pictures"]):
        queries = maps_of_picture(inspection, "query", index)
        base = maps_of_picture(inspection, "base", index)
        answer = maps_of_picture(inspection, "answer", index)

        # heat has the colour, so the picture below it has none
        colour, grey = None, None
        if seen:
            colour = thumbnail(seen[index], max_side)
            grey = thumbnail(seen[index].convert("L").convert("RGB"), max_side)

        portrait = Portrait(
            image_id=row["image_id"],
            colour=colour,
            grey=grey,
            base=mean_map("base model", base),
            all_queries=mean_map("all queries", queries),
            queries=numbered_maps("query", queries, "queries"),
            layers=layer_maps(base, queries),
            answer=word_grid(answer) if answer else None,
        )
        drawn.append(portrait)
    return drawn


def maps_of_picture(inspection: Row, name: str, index: int) -> Row | None:
    """Return the maps of one drawn picture in a part of the inspection, if it has any."""
    found = inspection[f"{name}_attention"]["found"]
    return found and {"side": found.get("side"), **found["pictures"][index]}


def mean_map(label: str, maps: Row | None) -> HeatMap | None:
    """Return the mean over layers."""
    return heat_map(label, np.mean(maps["layers"], axis=0), maps["side"]) if maps else None


def numbered_maps(label: str, maps: Row | None, key: str) -> list[HeatMap]:
    """Return one map for each row of maps[key], counted from 1."""
    if maps is None:
        return []
    rows = enumerate(maps[key], 1)
    return [heat_map(f"{label} {number}", np.array(row), maps["side"]) for number, row in rows]


def layer_maps(base: Row | None, queries: Row | None) -> list[LayerMaps]:
    """Return the maps of every layer; a system without maps has None."""
    of_base = numbered_maps("layer", base, "layers")
    of_queries = numbered_maps("layer", queries, "layers")
    pairs = itertools.zip_longest(of_base, of_queries)
    return [LayerMaps(number, *maps) for number, maps in enumerate(pairs, 1)]


def attention_charts(inspection: Row) -> list[Chart]:
    """Draw how much attention goes to pictures and summary tokens, and how far it is spread.

    Everything is a mean over the pictures.
    """
    queries = mean_over_pictures(inspection, "query")
    base = mean_over_pictures(inspection, "base")
    answers = mean_over_pictures(inspection, "answer")

    # two readers of the picture, where the compressor has both
    shares, reached = {}, {}
    for reader, weights in (("summary queries", queries), ("base model", base)):
        if weights is not None:
            shares[reader] = numbered(weights.sum(1))
            reached[reader] = numbered(spread(weights))

    charts = []
    if shares:
        charts.append(line_chart("Share on the picture", shares, SHARE, SIZE))
        charts.append(line_chart("Image tokens reached", reached, NUMBERS, SIZE))

    if answers is not None:
        by_layer, by_token = numbered(answers.sum(1)), numbered(answers.mean(0))
        charts.append(line_chart("Share on summary tokens", {"answers": by_layer}, SHARE, SIZE))
        charts.append(line_chart("By summary token", {"answers": by_token}, SHARE, SIZE))
    return charts


def mean_over_pictures(inspection: Row, name: str) -> np.ndarray | None:
    """Return the mean weights (layers, tokens) of a part, or None if the compressor lacks it."""
    found = inspection[f"{name}_attention"]["found"]
    if not found or not found["pictures"]:
        return None
    return np.mean([maps["layers"] for maps in found["pictures"]], axis=0)


def spread(weights: np.ndarray) -> np.ndarray:
    """Return for (layers, tokens) the number of equal shares that have the same entropy."""
    # exp of the entropy; 0 log 0 is 0
    shares = weights / weights.sum(1, keepdims=True)
    return np.exp(-(shares * np.log(np.maximum(shares, 1e-12))).sum(1))


def numbered(values: np.ndarray) -> Points:
    """Return points over the numbers of layers or of summary tokens, from 1."""
    return list(enumerate(values.tolist(), 1))
