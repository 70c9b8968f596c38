"""Noted attention of every family, whatever its masks and positions, against the eager one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.inspection.attention_weights import answer_attention
from components.inspection.parts import AbsentError
from components.inspection.views import grid_side
from components.model.chat import encode_prompt
from components.model.generation import base_answer
from components.model.loading import load_backbone
from tests.components.model.families import FAMILIES, save_family


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_answers_attend_as_eager_attention_says(family: str, tmp_path: Path) -> None:
    save_family(family, tmp_path)
    backbone = load_backbone(str(tmp_path), None, torch.float32, "sdpa", pad_to_square=False).eval()
    noise = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    read = backbone.encode_images(backbone.prepare([Image.fromarray(noise)]))
    prompt = encode_prompt(backbone.chat, "what is it?", read.lengths[0])
    said = answer_attention(
        backbone.language_model,
        prompt,
        backbone.image_token_id,
        lambda: base_answer(backbone, read, [prompt], 5)[0],
    )
    steps = said.weights.shape[1]
    assert said.weights.shape[2] == read.lengths[0]
    assert (said.weights.sum(-1) < 1).all()

    ids = torch.tensor([prompt + said.tokens])[:, : len(prompt) + steps - 1]
    backbone.language_model.set_attn_implementation("eager")
    arguments = backbone.arguments(backbone.chat_segment(ids, torch.ones_like(ids), read))
    # of bool, which eager attention would add as it is
    if isinstance(arguments["attention_mask"], dict):
        masks = arguments["attention_mask"].items()
        arguments["attention_mask"] = {
            kind: (~sees).float() * torch.finfo(torch.float32).min for kind, sees in masks
        }
    output = backbone.language_model(**arguments, use_cache=False, output_attentions=True)
    places = [place for place, token in enumerate(prompt) if token == backbone.image_token_id]
    expected = torch.stack(
        [weights[0].mean(0)[len(prompt) - 1 :, places] for weights in output.attentions]
    )
    torch.testing.assert_close(said.weights, expected, rtol=1e-3, atol=1e-5)

    if family != "llava":
        with pytest.raises(AbsentError, match="not one grid"):
            grid_side(backbone)
