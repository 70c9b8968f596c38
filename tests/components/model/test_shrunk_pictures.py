"""Families that read a shrunk picture as fewer tokens, against transformers by itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor
from torch.nn import functional

from components.model.backbone import Backbone
from components.model.chat import encode_prompt
from components.model.generation import base_answer
from components.model.loading import load_backbone
from tests.components.model.families import FAMILIES, save_family

PATCH, NEW_TOKENS = 8, 8
TOWERS = ("llava", "llava_next", "llava_onevision")
ABLE = (*TOWERS, "qwen2_5_vl", "internvl")
QUESTION = "what is it?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    for name in FAMILIES:
        save_family(name, root / name)
    return {name: root / name for name in FAMILIES}


def load(folder: Path) -> Backbone:
    return load_backbone(str(folder), None, torch.float32, "sdpa", pad_to_square=True)


def picture(width: int, height: int) -> Image.Image:
    """Noise in large squares, of which something is left when it is small."""
    values = np.random.default_rng(width).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.NEAREST)


def small_model(backbone: Backbone, side: int) -> Any:
    """A model of transformers made for pictures of `side` pixels, with the same weights.

    Its position embeddings are the large ones, interpolated here.
    """
    config = type(backbone.vlm.config).from_dict(backbone.vlm.config.to_dict())
    config.vision_config.image_size = side
    weights = dict(backbone.vlm.state_dict())
    (name,) = (name for name in weights if "vision_tower" in name and "position_emb" in name)
    table, num_patches = weights[name], (side // PATCH) ** 2

    # a class token, if there is one, stands before the grid
    grid_side = int(len(table) ** 0.5)
    first = len(table) - grid_side**2
    grid = table[first:].T.reshape(1, -1, grid_side, grid_side)
    fewer = functional.interpolate(grid, size=(side // PATCH, side // PATCH), mode="bicubic")
    weights[name] = torch.cat([table[:first], fewer[0].reshape(-1, num_patches).T])

    model = type(backbone.vlm)(config).eval()
    model.load_state_dict(weights)
    return model


def plain_pixels(image: Image.Image, side: int, like: Any) -> Tensor:
    """Resized and normalised by CLIP's processor alone."""
    processor = transformers.CLIPImageProcessorPil(
        size={"height": side, "width": side},
        resample=Image.Resampling.LANCZOS,
        do_center_crop=False,
        image_mean=like.image_mean,
        image_std=like.image_std,
    )
    return processor(image, return_tensors="pt")["pixel_values"]


@torch.no_grad()
@pytest.mark.parametrize("num_tokens", [4, 9])
def test_llava_answers_as_a_llava_made_for_small_pictures(
    folders: dict[str, Path], num_tokens: int
) -> None:
    backbone, image = load(folders["llava"]), picture(64, 64)
    side = PATCH * int(num_tokens**0.5)
    prompt = encode_prompt(backbone.chat, QUESTION, num_tokens)
    expected = (
        small_model(backbone, side)
        .generate(
            input_ids=torch.tensor([prompt]),
            pixel_values=plain_pixels(image, side, backbone.image_processor),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
        )[0, len(prompt) :]
        .tolist()
    )

    shrunk = backbone.encode_shrunk([image], num_tokens)
    assert shrunk.lengths == [num_tokens]
    found = base_answer(backbone, shrunk, [prompt], NEW_TOKENS)[0]
    assert found == expected[: len(found)]
    assert len(found) == NEW_TOKENS or expected[len(found)] == backbone.tokenizer.eos_token_id


@torch.no_grad()
@pytest.mark.parametrize("family", TOWERS)
def test_a_tower_reads_a_small_picture_as_one_made_for_it(
    folders: dict[str, Path], family: str
) -> None:
    backbone, image = load(folders[family]), picture(64, 64)
    model = small_model(backbone, 2 * PATCH).model
    pixels = plain_pixels(image, 2 * PATCH, backbone.image_processor)
    states = model.vision_tower(pixels, output_hidden_states=True).hidden_states

    # SigLIP has no class token to leave out
    layer, first = model.config.vision_feature_layer, int(family != "llava_onevision")
    expected = model.multi_modal_projector(states[layer][:, first:])
    found = backbone.encode_shrunk([image], 4)
    torch.testing.assert_close(found.embeddings, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_qwen_reads_a_smaller_picture_as_transformers_does(folders: dict[str, Path]) -> None:
    backbone, image = load(folders["qwen2_5_vl"]), picture(80, 40)
    shrunk = backbone.encode_shrunk([image], 8)
    assert shrunk.lengths == [8]

    # its processor, given the small picture, and allowed to leave it small
    processor = transformers.Qwen2VLImageProcessorPil(
        patch_size=PATCH, size={"shortest_edge": 1, "longest_edge": 96 * 96}
    )
    small = image.resize((4 * 2 * PATCH, 2 * 2 * PATCH), Image.Resampling.LANCZOS)
    inputs = processor([small], return_tensors="pt")
    prompt = torch.tensor([encode_prompt(backbone.chat, QUESTION, 8)])
    is_picture = (prompt == backbone.image_token_id).int()
    expected = backbone.vlm.generate(
        input_ids=prompt,
        mm_token_type_ids=is_picture,
        **inputs,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
    )[0, prompt.shape[1] :].tolist()
    found = base_answer(backbone, shrunk, prompt.tolist(), NEW_TOKENS)[0]
    assert found == expected[: len(found)]


@torch.no_grad()
def test_qwen_leaves_a_picture_that_is_small_enough_as_it_is(folders: dict[str, Path]) -> None:
    backbone, image = load(folders["qwen2_5_vl"]), picture(48, 48)
    whole = backbone.encode_images(backbone.prepare([image]))
    assert whole.lengths == [9]
    found = backbone.encode_shrunk([image], 20)
    assert torch.equal(found.embeddings, whole.embeddings)


@torch.no_grad()
def test_internvl_reads_a_square_as_transformers_and_a_strip_square_by_square(
    folders: dict[str, Path],
) -> None:
    backbone = load(folders["internvl"])
    model = backbone.vlm.model
    pixels = plain_pixels(picture(64, 64), 2 * PATCH, backbone.image_processor)
    expected = model.get_image_features(pixels).pooler_output
    found = backbone.encode_shrunk([picture(64, 64)], 1)
    torch.testing.assert_close(found.embeddings, expected, rtol=1e-4, atol=1e-4)

    # 2 rows and 6 columns of patches become 3 tokens
    strip = picture(96, 32).resize((6 * PATCH, 2 * PATCH), Image.Resampling.LANCZOS)
    processor = transformers.CLIPImageProcessorPil(
        do_resize=False,
        do_center_crop=False,
        image_mean=backbone.image_processor.image_mean,
        image_std=backbone.image_processor.image_std,
    )
    states = model.vision_tower(**processor(strip, return_tensors="pt")).last_hidden_state[0, 1:]
    squares = []
    for left in (0, 2, 4):
        squares.append(torch.cat([states[left + place] for place in (0, 1, 6, 7)]))
    expected = model.multi_modal_projector(torch.stack(squares))
    found = backbone.encode_shrunk([picture(96, 32)], 3)
    torch.testing.assert_close(found.embeddings[0], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", ABLE)
def test_pictures_of_any_shape_have_at_most_so_many_tokens_alone_and_together(
    folders: dict[str, Path], family: str
) -> None:
    backbone = load(folders[family])
    images = [picture(48, 48), picture(90, 40), picture(30, 100)]
    for num_tokens in (1, 3, 4):
        together = backbone.encode_shrunk(images, num_tokens)
        assert max(together.lengths) <= num_tokens
        for row, image in enumerate(images):
            (length,) = (alone := backbone.encode_shrunk([image], num_tokens)).lengths
            assert together.lengths[row] == length
            assert torch.equal(together.embeddings[row, :length], alone.embeddings[0])
    assert (together.embeddings[1, 0] - together.embeddings[2, 0]).abs().max() > 0.01


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - set(ABLE)))
def test_a_family_with_a_fixed_number_of_tokens_says_so(
    folders: dict[str, Path], family: str
) -> None:
    with pytest.raises(ValueError, match="as many tokens of a small picture as of a large one"):
        load(folders[family]).encode_shrunk([picture(48, 48)], 4)


@pytest.mark.parametrize(
    ("family", "most"),
    [("llava", 36), ("llava_next", 16), ("llava_onevision", 16), ("internvl", 4)],
)
def test_more_tokens_than_the_tower_has_places_are_refused(
    folders: dict[str, Path], family: str, most: int
) -> None:
    backbone = load(folders[family])
    assert backbone.why_not_shrunk(most) is None
    with pytest.raises(ValueError, match=f"{most + 1} would be more"):
        backbone.encode_shrunk([picture(48, 48)], most + 1)


def test_a_class_token_that_is_read_is_refused(folders: dict[str, Path]) -> None:
    backbone = load(folders["llava"])
    backbone.vlm.config.vision_feature_select_strategy = "full"
    assert "class token" in str(backbone.why_not_shrunk(4))
