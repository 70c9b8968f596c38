"""Noted attention against transformers' own: the same weights with attention "eager"."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL.Image import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from components.baselines.single_forward import build_single_forward
from components.inspection.attention_weights import (
    answer_attention,
    attention_weights,
    query_attention,
    watch,
)
from components.inspection.parts import AbsentError
from components.methods.fwd2bot import DoubleForward
from components.model.adapters import COMPRESSION
from components.model.backbone import Backbone
from components.model.chat import encode_prompt
from components.model.generation import base_answer
from components.model.segments import text_segment
from tests.components.methods.building import built
from tests.components.model.tiny import COMPRESSOR, TINY, compressor, load

IMAGE_TOKENS = 9  # 48 / 16 squared
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def eager(model: DoubleForward) -> Any:
    """The language model of a compressor, from now on with attention that gives its weights."""
    model.backbone.language_model.set_attn_implementation("eager")
    return model.backbone.language_model


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_queries_attend_as_eager_attention_says(
    llava_folder: Path, pictures: list[Image], attention: str
) -> None:
    model = compressor(llava_folder, params=COMPRESSOR.model_copy(update={"attention": attention}))
    backbone, picture = model.backbone, model.backbone.prepare(pictures[3:4])
    found = query_attention(model, picture)
    assert found.shape == (TINY.text_num_layers, COMPRESSOR.num_summary_tokens, IMAGE_TOKENS)

    bos = backbone.embed(torch.tensor([[backbone.tokenizer.bos_token_id]]))
    read = backbone.encode_images(picture).embeddings
    inputs = torch.cat([bos, read, backbone.embed(model.prompt_ids)[None], model.queries(1)], dim=1)
    num_tokens = inputs.shape[1]
    sees = (
        torch.ones(1, 1, num_tokens, num_tokens).tril()
        if attention == "causal"
        else torch.ones(1, 1, 1, num_tokens)
    )
    mask = (
        torch.zeros_like(sees)
        .masked_fill(sees == 0, torch.finfo(torch.float32).min)
        .expand(1, 1, num_tokens, -1)
    )
    with model.adapters.use(COMPRESSION):
        output = eager(model)(inputs_embeds=inputs, attention_mask=mask, output_attentions=True)
    expected = torch.stack(
        [weights[0].mean(0)[-4:, 1 : 1 + IMAGE_TOKENS] for weights in output.attentions]
    )
    torch.testing.assert_close(found, expected, **CLOSE)


@torch.inference_mode()
def test_answers_attend_to_summary_tokens_as_eager_attention_says(
    model: DoubleForward, pictures: list[Image]
) -> None:
    backbone = model.backbone
    tokens = model.compress_pictures(backbone.prepare(pictures[:1]))
    prompt = encode_prompt(backbone.chat, "what is it?", tokens.shape[1])
    said = answer_attention(
        backbone.language_model,
        prompt,
        backbone.image_token_id,
        lambda: model.answer(tokens, [prompt], 5)[0],
    )
    steps = said.weights.shape[1]
    assert steps == min(5, len(said.tokens) + 1)

    # The whole answer read at once: row by row what each step saw.
    ids = torch.tensor([prompt + said.tokens])[:, : len(prompt) + steps - 1]
    with model.adapters.use("generation"):
        output = eager(model)(
            inputs_embeds=backbone.embed_chat(ids, tokens), output_attentions=True
        )
    places = [place for place, token in enumerate(prompt) if token == backbone.image_token_id]
    expected = torch.stack(
        [weights[0].mean(0)[len(prompt) - 1 :, places] for weights in output.attentions]
    )
    torch.testing.assert_close(said.weights, expected, **CLOSE)


@torch.inference_mode()
def test_the_base_attends_to_image_tokens_as_generate_says(
    llava_folder: Path, pictures: list[Image]
) -> None:
    backbone = load(llava_folder)
    picture = backbone.prepare(pictures[1:2])
    prompt = encode_prompt(backbone.chat, "what is it?", IMAGE_TOKENS)
    read = backbone.encode_images(picture)
    said = answer_attention(
        backbone.language_model,
        prompt,
        backbone.image_token_id,
        lambda: base_answer(backbone, read, [prompt], 4)[0],
    )
    plain = LlavaForConditionalGeneration.from_pretrained(
        llava_folder, attn_implementation="eager"
    ).eval()
    output: Any = plain.generate(
        input_ids=torch.tensor([prompt]),
        **picture.tensors,
        max_new_tokens=4,
        do_sample=False,
        output_attentions=True,
        return_dict_in_generate=True,
    )
    first = prompt.index(backbone.image_token_id)
    expected = torch.stack(
        [
            torch.stack([layer[0].mean(0)[-1, first : first + IMAGE_TOKENS] for layer in step])
            for step in output.attentions
        ],
        dim=1,
    )
    torch.testing.assert_close(said.weights, expected, **CLOSE)


@torch.inference_mode()
def test_watching_changes_nothing_and_ends_with_its_block(
    model: DoubleForward, pictures: list[Image]
) -> None:
    read = model.backbone.encode_images(model.backbone.prepare(pictures))
    expected = model.compress_images(read)
    with watch(model.backbone.language_model, 2) as seen:
        assert torch.equal(model.compress_images(read), expected)
        model.compress_images(read)
    assert [len(passes) for passes in seen] == [2] * TINY.text_num_layers
    assert {weights.shape[:2] for passes in seen for weights in passes} == {(len(pictures), 2)}
    with pytest.raises(RuntimeError), watch(model.backbone.language_model, 1) as other:
        raise RuntimeError
    model.compress_images(read)
    assert [len(passes) for passes in seen + other] == [2] * TINY.text_num_layers + [
        0
    ] * TINY.text_num_layers


@torch.inference_mode()
def test_rows_sum_to_one_and_padding_gets_nothing(model: DoubleForward) -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    inputs = text_segment(torch.randn(2, 5, model.backbone.dim), mask)
    with watch(model.backbone.language_model, 1) as seen:
        model.read(inputs)
    for (weights,) in seen:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1))
        assert torch.equal(weights[0, 0, :2], torch.zeros(2))
        assert (weights[0, 0, 2:] > 0).all()


@pytest.mark.parametrize("mask", [None, "bool", "added"])
def test_shared_keys_and_every_kind_of_mask_give_plain_softmax(mask: str | None) -> None:
    query, key = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 6, 8)
    sees = torch.ones(3, 6, dtype=torch.bool).tril(3)
    masks: dict[str | None, Tensor | None] = {
        None: None,
        "bool": sees[None, None],
        "added": torch.zeros(1, 1, 3, 6).masked_fill(~sees, -torch.inf),
    }
    found = attention_weights(query, key, masks[mask], 0.5, 2)
    for row in range(2):
        for head in range(4):
            for place in (1, 2):
                scores = [
                    float(query[row, head, place] @ key[row, head // 2, other]) * 0.5
                    for other in range(4 + place)
                ]
                expected = torch.tensor(scores).softmax(0)
                torch.testing.assert_close(found[row, head, place - 1, : 4 + place], expected)
                assert found[row, head, place - 1, 4 + place :].eq(0).all()


def test_another_kernel_is_refused(model: DoubleForward) -> None:
    language_model = eager(model)
    with (
        pytest.raises(
            ValueError, match="by eager, of which nothing is noted; load it with attention 'sdpa'"
        ),
        watch(language_model, 1),
    ):
        pass


def test_methods_without_summary_queries_say_so(
    llava_folder: Path, backbone: Backbone, pictures: list[Image]
) -> None:
    picture = backbone.prepare(pictures[:1])
    with pytest.raises(AbsentError, match="average_pooling has no summary queries"):
        query_attention(built(llava_folder, "average_pooling"), picture)
    single = build_single_forward(load(llava_folder), COMPRESSOR, seed=0)
    with pytest.raises(
        AbsentError, match="single_forward has no summary queries that the language model reads"
    ):
        query_attention(single.eval(), picture)
