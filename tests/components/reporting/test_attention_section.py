"""Heat against its weights, pixel by pixel; the spread of attention against known cases."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from components.reporting.attention_section import (
    STRONGEST,
    attention_charts,
    heat_map,
    heat_uri,
    portraits,
    spread,
    word_grid,
)
from tests.components.reporting.analyses import LAYERS, SIDE, STEPS, TOKENS, analysis, without

SEEN = [Image.new("RGB", (8, 8), (200, 30, 30)), Image.new("RGB", (8, 8), (0, 0, 0))]


def opacities(uri: str) -> np.ndarray:
    """The opacity of every pixel, 0 … 1."""
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))[..., 3] / 255


def test_opacity_is_in_proportion_to_the_weight() -> None:
    weights = np.array([[0.0, 0.1, 0.2], [0.4, 0.05, 0.3]])
    np.testing.assert_allclose(
        opacities(heat_uri(weights, 0.4)), STRONGEST * weights / 0.4, atol=0.003
    )
    assert not opacities(heat_uri(np.zeros((2, 2)), 0.0)).any()


def test_a_map_is_row_by_row_and_knows_its_share() -> None:
    found = heat_map("query 1", np.array([0.1, 0.2, 0.0, 0.4]), 2)
    np.testing.assert_allclose(
        opacities(found.uri), STRONGEST * np.array([[0.25, 0.5], [0, 1]]), atol=0.003
    )
    assert found.share == pytest.approx(0.7)


def test_words_have_a_row_each_and_summary_tokens_a_column() -> None:
    grid = word_grid(analysis("large")["answer_attention"]["found"]["pictures"][0])
    assert opacities(grid.uri).shape == (STEPS, TOKENS)
    assert grid.words == ["large", "b", "c", ""]
    assert (grid.num_tokens, grid.width) == (TOKENS, 48)


def test_many_tokens_fit() -> None:
    assert word_grid({"steps": np.ones((2, 64)).tolist(), "words": ["a", ""]}).width == 200


def test_every_picture_has_its_maps() -> None:
    first, second = portraits(analysis("name"), SEEN, 64)
    assert (first.image_id, second.image_id) == ("name", "other")
    assert [layer for layer, *_ in first.layers] == list(range(1, LAYERS + 1))
    queries = analysis()["query_attention"]["found"]["pictures"][0]
    assert first.all_queries is not None
    assert first.all_queries.share == pytest.approx(np.mean(queries["layers"], axis=0).sum())
    assert [found.share for found in first.queries] == pytest.approx(
        np.sum(queries["queries"], axis=1)
    )
    assert opacities(first.queries[0].uri).shape == (SIDE, SIDE)
    assert first.colour is not None
    assert first.grey is not None
    assert first.colour.uri != first.grey.uri


def test_what_is_not_there_is_left_out() -> None:
    no_queries = portraits(without("query_attention"), SEEN, 64)[0]
    assert (no_queries.all_queries, no_queries.queries) == (None, [])
    assert no_queries.base is not None
    assert no_queries.layers[0].queries is None
    no_grid = portraits(without("query_attention", "base_attention"), [], 64)[0]
    assert (no_grid.grey, no_grid.base, no_grid.layers) == (None, None, [])
    assert no_grid.answer is not None
    assert portraits(without("answer_attention"), SEEN, 64)[0].answer is None
    empty = analysis() | {"pictures": []}
    assert portraits(empty, [], 64) == []


def test_charts_are_of_what_there_is() -> None:
    titles = [
        "Share on the picture",
        "Image tokens reached",
        "Share on summary tokens",
        "By summary token",
    ]
    assert [chart.title for chart in attention_charts(analysis())] == titles
    assert attention_charts(analysis())[0].lines == ("summary queries", "base model")
    assert attention_charts(without("query_attention"))[0].lines == ()
    assert [
        chart.title for chart in attention_charts(without("query_attention", "base_attention"))
    ] == titles[2:]
    assert attention_charts(without("query_attention", "base_attention", "answer_attention")) == []


def test_shares_are_means_over_the_pictures() -> None:
    found = analysis()
    pictures = found["query_attention"]["found"]["pictures"]
    pictures[1] = {
        "layers": (3 * np.array(pictures[0]["layers"])).tolist(),
        "queries": pictures[0]["queries"],
    }
    mean = 2 * np.sum(pictures[0]["layers"], axis=1)[-1]
    assert attention_charts(found)[0].note.split(" · ")[0] == f"{100 * mean:.1f}%"


def test_spread_counts_tokens() -> None:
    one_hot, equal = np.eye(5)[:1], np.full((1, 5), 0.01)
    pair = np.array([[0.3, 0.3, 0, 0, 0]])
    np.testing.assert_allclose(spread(np.concatenate([one_hot, equal, pair])), [1, 5, 2], rtol=1e-6)
