from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from components.methods.fwd2bot import DoubleForward
from components.model.chat import encode_prompt
from components.model.generation import base_answer
from tests.components.model.tiny import COMPRESSOR, load

NEW_TOKENS = 12
K = COMPRESSOR.num_summary_tokens
QUESTIONS = [
    "what?",
    "what colour is the small circle above the star?",
    "is it large?",
    "how many are there, then?",
]


@pytest.fixture
def plain(llava_folder: Path) -> LlavaForConditionalGeneration:
    return load(llava_folder).vlm


def generate(
    vlm: LlavaForConditionalGeneration, prompt: list[int], pixel_values: torch.Tensor | None
) -> list[int]:
    """What transformers answers to one prompt, up to the first end token."""
    inputs = {
        "input_ids": torch.tensor([prompt]),
        "attention_mask": torch.ones(1, len(prompt), dtype=torch.long),
    }
    if pixel_values is not None:
        inputs["pixel_values"] = pixel_values
    output = vlm.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    new = output[0, len(prompt) :].tolist()
    ends = [index for index, token in enumerate(new) if token in vlm.generation_config.eos_token_id]
    return new[: ends[0]] if ends else new


def end_early(*vlms: LlavaForConditionalGeneration, token: int) -> None:
    """Let a likely token be an end token: a random model never ends an answer by itself."""
    for vlm in vlms:
        vlm.generation_config.eos_token_id = [2, token]


@torch.no_grad()
@pytest.mark.parametrize("ends_early", [False, True])
def test_all_image_tokens_give_what_transformers_generates(
    model: DoubleForward,
    plain: LlavaForConditionalGeneration,
    pictures: list[Image.Image],
    ends_early: bool,
) -> None:
    backbone = model.backbone
    prompts = [
        encode_prompt(backbone.chat, question, backbone.num_image_tokens) for question in QUESTIONS
    ]
    read = backbone.prepare(pictures[: len(prompts)])
    pixel_values = read.tensors["pixel_values"]
    end_early(plain, backbone.vlm, token=2)
    if ends_early:
        third = generate(plain, prompts[0], pixel_values[:1])[2]
        end_early(plain, backbone.vlm, token=third)
    expected = [
        generate(plain, prompt, pixel_values[i : i + 1]) for i, prompt in enumerate(prompts)
    ]
    assert base_answer(backbone, backbone.encode_images(read), prompts, NEW_TOKENS) == expected
    assert (min(map(len, expected)) < NEW_TOKENS) == ends_early


@torch.no_grad()
def test_no_picture_gives_what_transformers_generates(
    model: DoubleForward, plain: LlavaForConditionalGeneration
) -> None:
    prompts = [encode_prompt(model.backbone.chat, question, 0) for question in QUESTIONS]
    end_early(plain, model.backbone.vlm, token=2)
    assert base_answer(model.backbone, None, prompts, NEW_TOKENS) == [
        generate(plain, p, None) for p in prompts
    ]


@torch.no_grad()
def test_summary_tokens_answer_alone_as_in_a_batch_and_as_without_a_cache(
    model: DoubleForward, pictures: list[Image.Image]
) -> None:
    backbone = model.backbone
    prompts = [encode_prompt(backbone.chat, question, K) for question in QUESTIONS]
    summary_tokens = model.compress_images(
        backbone.encode_images(backbone.prepare(pictures[: len(prompts)]))
    )
    together = model.answer(summary_tokens, prompts, NEW_TOKENS)
    for row, prompt in enumerate(prompts):
        visual_tokens = summary_tokens[row : row + 1]
        assert model.answer(visual_tokens, [prompt], NEW_TOKENS) == [together[row]]
        written = list(prompt)
        for _ in range(NEW_TOKENS):
            ids = torch.tensor([written])
            hidden = model.generation_hidden(visual_tokens, ids, torch.ones_like(ids))
            written.append(int(backbone.lm_head(hidden[0, -1]).argmax()))
        assert written[len(prompt) :] == together[row]


def test_no_new_tokens_are_no_answer(model: DoubleForward) -> None:
    assert model.answer(None, [[1, 5], [1]], 0) == [[], []]


def test_a_model_in_training_mode_is_refused(model: DoubleForward) -> None:
    with pytest.raises(ValueError, match="training mode"):
        model.train().answer(None, [[1, 5]], 3)
