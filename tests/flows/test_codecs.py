"""Codecs on a small world: exact ones score as `evaluate`; `fitted` never sees its own half."""

import json
from pathlib import Path

import numpy as np
import pytest

from components.store.fit import MIN_PICTURES, fit_directions, quantise_fitted, restore_fitted
from flows.codecs import FITTED_BYTES, FIXED, all_codecs, cross_fitted, main, prepare, score
from tests.flows.in_this_process import ask_all
from tests.flows.test_evaluate import PARAMS, World, metrics_of, world  # noqa: F401


@pytest.fixture(scope="module")
def output(world: World) -> Path:
    """What `evaluate` finds of the compressor alone, without Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.evaluate.run_tasks", ask_all)
        return world.run("first", PARAMS.model_copy(update={"references": ()}))


def test_exact_tokens_score_as_in_evaluate(world: World, output: Path) -> None:
    asked = prepare(PARAMS, world.curated, world.root / "models/compressor", world.store)
    found, expected = score(asked, "float16", 1, asked.tokens), metrics_of(output)["compressed"]
    assert found.error == 0
    assert found.short_answer == expected["short_answer"]["accuracy"]
    assert found.image_to_text == expected["retrieval"]["image_to_text"]["recall_at_1"]
    assert found.text_to_image == expected["retrieval"]["text_to_image"]["recall_at_1"]


def test_each_half_is_decoded_by_the_fit_to_the_other() -> None:
    tokens = np.random.default_rng(0).normal(size=(64, 2, 8)).astype(np.float32)
    found = cross_fitted(tokens, 4).reshape(64, 16)
    vectors = tokens.reshape(64, 16)
    fit = fit_directions(vectors[::2], 4)
    np.testing.assert_array_equal(
        found[1::2], restore_fitted(quantise_fitted(vectors[1::2], fit), fit)
    )
    other = cross_fitted(np.concatenate([tokens, tokens[:1] + 9]), 4)
    # the new picture is not in their fit
    np.testing.assert_array_equal(other[:64:2].reshape(32, 16), found[::2])


@pytest.mark.usefixtures("output")
def test_every_codec_has_a_row(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.codecs.load_params", lambda *_: PARAMS)
    main(world.curated, world.root / "models/compressor", world.store, tmp_path / "codecs.json")
    rows = json.loads((tmp_path / "codecs.json").read_text())["codecs"]
    assert [row["codec"] for row in rows] == [*FIXED]  # these pictures are too few for a fit
    assert rows[0]["error"] == 0
    assert 0 < rows[1]["error"] < rows[5]["error"]


def test_enough_pictures_are_also_stored_by_a_fit() -> None:
    tokens = np.random.default_rng(0).normal(size=(2 * MIN_PICTURES, 2, 64)).astype(np.float32)
    found = list(all_codecs(tokens))
    assert [name for name, *_ in found] == [*FIXED, *["fitted"] * len(FITTED_BYTES)]
    assert [num_bytes for _, num_bytes, _ in found[len(FIXED) :]] == list(FITTED_BYTES)
    assert all(decoded.shape == tokens.shape for *_, decoded in found)
    assert len(list(all_codecs(tokens[1:]))) == len(FIXED)
