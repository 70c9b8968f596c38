"""Published maps against the attention that they are means of; their pictures against pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.inspection.attention_weights import query_attention
from components.inspection.inspection_files import picture_file, write_analysis
from components.inspection.maps import (
    answer_from_tokens,
    base_maps,
    compression_maps,
    generation_maps,
    seen_pictures,
)
from components.inspection.parts import AbsentError, part
from components.inspection.views import as_read, grid_side, on_grid
from components.methods.fwd2bot import DoubleForward
from components.model.backbone import Backbone
from components.model.chat import encode_prompt

TINY_SIDE = 3


def test_compression_maps_are_means_of_the_attention(
    model: DoubleForward, pictures: list[Image.Image]
) -> None:
    found = compression_maps(model, pictures[:2])
    assert found["side"] == TINY_SIDE
    for image, maps in zip(pictures[:2], found["pictures"], strict=True):
        weights = query_attention(model, model.backbone.prepare([image])).numpy()
        np.testing.assert_allclose(maps["layers"], weights.mean(1), atol=1e-6)
        np.testing.assert_allclose(maps["queries"], weights.mean(0), atol=1e-6)


def test_generation_maps_have_a_word_for_every_step(model: DoubleForward) -> None:
    tokens = torch.randn(2, 4, model.backbone.dim)
    found = generation_maps(model, tokens, "what is it?", 6)["pictures"]
    prompt = encode_prompt(model.backbone.chat, "what is it?", 4)
    for row, maps in zip(tokens, found, strict=True):
        said = answer_from_tokens(model, row, prompt, 6)
        assert len(maps["words"]) == len(maps["steps"]) == said.weights.shape[1]
        assert [word for word in maps["words"] if word] == [
            model.backbone.tokenizer.decode([t]) for t in said.tokens
        ]
        np.testing.assert_allclose(maps["steps"], said.weights.mean(0), atol=1e-6)
        np.testing.assert_allclose(maps["layers"], said.weights.mean(1), atol=1e-6)


def test_base_maps_are_of_the_base_and_not_of_an_adapter(
    model: DoubleForward, backbone: Backbone, pictures: list[Image.Image]
) -> None:
    found = base_maps(backbone, pictures[:1], "what is it?", 4)
    assert np.shape(found["pictures"][0]["layers"]) == (3, TINY_SIDE**2)
    # adapters are off outside of the passes
    assert found == base_maps(model.backbone, pictures[:1], "what is it?", 4)


def test_the_grid_lies_on_the_padded_picture(
    backbone: Backbone, pictures: list[Image.Image]
) -> None:
    square, wide = pictures[0], pictures[1]
    assert (square.size, wide.size) == ((48, 48), (48, 30))
    np.testing.assert_allclose(as_read(backbone, backbone.prepare([square])), square, atol=1)
    padded = np.asarray(as_read(backbone, backbone.prepare([wide])))
    np.testing.assert_allclose(padded[9:39], wide, atol=1)
    assert (padded[:9] == padded[0, 0]).all()  # the mean colour
    assert [image.size for image in seen_pictures(backbone, pictures)] == [(48, 48)] * len(pictures)


def test_a_class_token_is_no_cell_of_the_grid() -> None:
    weights = torch.arange(10.0)
    assert torch.equal(on_grid(weights, 3), weights[1:])
    assert torch.equal(on_grid(weights[1:], 3), weights[1:])


def test_families_without_a_grid_say_so(backbone: Backbone, pictures: list[Image.Image]) -> None:
    other = Backbone(backbone.vlm, backbone.chat, backbone.image_processor, backbone.source, True)
    with pytest.raises(AbsentError, match="tiny-llava are tiles"):
        grid_side(other)
    assert seen_pictures(other, pictures) == []


def test_a_part_holds_what_was_found_or_why_not() -> None:
    def look() -> None:
        raise AbsentError("it has none")

    assert part(lambda: [1]) == {"found": [1], "reason": None}
    assert part(look) == {"found": None, "reason": "it has none"}


def test_folder_holds_the_analysis_and_its_pictures(
    tmp_path: Path, pictures: list[Image.Image]
) -> None:
    folder = tmp_path / "analysis"
    write_analysis(folder, {"b": "\ud83d", "a": 2}, pictures[1:2])
    assert json.loads((folder / "inspection.json").read_text()) == {"a": 2, "b": "\ud83d"}
    assert [path.name for path in tmp_path.iterdir()] == ["analysis"]
    assert [path.name for path in (folder / "pictures").iterdir()] == ["000.png"]
    np.testing.assert_array_equal(Image.open(folder / picture_file(0)), pictures[1])
