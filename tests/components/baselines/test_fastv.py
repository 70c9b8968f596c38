"""Against plain LLaVA, and against reading each prompt alone and from its start for every token."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor
from transformers import DynamicCache

from components.baselines.fastv import DroppingReader, FastV, kept_places
from components.methods.catalogue import MethodParams
from components.model.chat import encode_prompt
from components.model.generation import end_token_ids, left_pad
from components.model.segments import text_segment
from tests.components.methods.building import built

ROOT = Path(__file__).parents[3]
QUESTIONS = (
    "what?",
    "what colour is the large square above the star?",
    "two?",
    "is there a circle?",
    "",
    "a b c d",
)
NEW = 6  # tokens of an answer


def fastv(folder: Path, count: int, layer: int = 2, attention: str = "sdpa") -> FastV:
    model = built(folder, "fastv", "none", count, layer=layer)
    assert isinstance(model, FastV)
    model.backbone.language_model.config._attn_implementation = attention
    return model


def asked(model: FastV, pictures: list[Image.Image]) -> tuple[Tensor, list[list[int]]]:
    """Questions of different lengths, each about a picture of its own."""
    encoded = model.compress_pictures(model.backbone.prepare(pictures[: len(QUESTIONS)]))
    return encoded, [
        encode_prompt(model.backbone.chat, question, model.num_placeholders)
        for question in QUESTIONS
    ]


@torch.no_grad()
def naive_answer(model: FastV, encoded: Tensor, prompt: list[int]) -> list[int]:
    """Answer one row without padding or cache: the whole sequence is read for every new token."""
    answer: list[int] = []
    while len(answer) < NEW:
        hidden = naive_hidden(model, encoded, prompt, answer)
        token = int(model.backbone.lm_head(hidden).argmax())
        if token in end_token_ids(model.backbone):
            break
        answer.append(token)
    return answer


@torch.no_grad()
def naive_hidden(model: FastV, encoded: Tensor, prompt: list[int], answer: list[int]) -> Tensor:
    """Of the last token, (dim,)."""
    language_model, ids = model.backbone.language_model, prompt + answer
    embeddings, everything = (
        model.backbone.embed_chat(torch.tensor([ids]), encoded[None]),
        range(len(ids)),
    )
    images = {place for place in everything if ids[place] == model.backbone.image_token_id}
    gone = images - naive_places(model, embeddings[:, : len(prompt)], images)
    kept = torch.tensor([place for place in everything if place not in gone])
    hidden = read_naively(language_model, embeddings, torch.arange(len(ids)), slice(0, model.layer))
    hidden = read_naively(language_model, hidden[:, kept], kept, slice(model.layer, None))
    return language_model.norm(hidden)[0, -1]


def naive_places(model: FastV, embeddings: Tensor, images: set[int]) -> set[int]:
    """Find the image places with most of the last token's attention, by transformers' eager one."""
    language_model = model.backbone.language_model
    before = language_model.config._attn_implementation
    language_model.config._attn_implementation = "eager"
    weights = language_model(inputs_embeds=embeddings, output_attentions=True).attentions[
        model.layer - 1
    ]
    language_model.config._attn_implementation = before
    attended = weights[0, :, -1].mean(0).tolist()
    return set(sorted(images, key=lambda place: -attended[place])[: model.num_summary_tokens])


def read_naively(language_model: Any, hidden: Tensor, positions: Tensor, layers: slice) -> Tensor:
    """Some layers under a causal mask, at given positions."""
    length = hidden.shape[1]
    mask = torch.full((length, length), torch.finfo(hidden.dtype).min).triu(1)[None, None]
    rotations = language_model.rotary_emb(hidden, position_ids=positions[None])
    for layer in language_model.layers[layers]:
        hidden = layer(
            hidden, attention_mask=mask, position_ids=positions[None], position_embeddings=rotations
        )
    return hidden


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("count", "layer"), [(1, 1), (4, 1), (4, 2), (8, 2)])
def test_answers_are_those_of_reading_each_prompt_alone_and_anew(
    llava_folder: Path, pictures: list[Image.Image], count: int, layer: int, attention: str
) -> None:
    model = fastv(llava_folder, count, layer, attention)
    encoded, prompts = asked(model, pictures)
    expected = [naive_answer(model, *row) for row in zip(encoded, prompts, strict=True)]
    assert model.answer(encoded, prompts, NEW) == expected
    assert len({tuple(row) for row in expected}) > 1


def test_a_prompt_is_answered_alone_as_among_others(
    llava_folder: Path, pictures: list[Image.Image]
) -> None:
    model = fastv(llava_folder, 3)
    encoded, prompts = asked(model, pictures)
    alone = [model.answer(encoded[[row]], [prompt], NEW)[0] for row, prompt in enumerate(prompts)]
    assert model.answer(encoded, prompts, NEW) == alone


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_with_all_tokens_kept_it_is_plain_llava(
    llava_folder: Path, pictures: list[Image.Image], attention: str
) -> None:
    model, plain = (
        fastv(llava_folder, 9, 2, attention),
        built(llava_folder, "average_pooling", "none", 9),
    )
    encoded, prompts = asked(model, pictures)
    torch.testing.assert_close(
        plain.compress_pictures(plain.backbone.prepare(pictures[: len(encoded)])), encoded
    )
    assert model.answer(encoded, prompts, NEW) == plain.answer(encoded, prompts, NEW)


@pytest.mark.parametrize(("count", "layer"), [(1, 1), (4, 2)])
def test_prompts_are_read_as_each_alone(
    llava_folder: Path, pictures: list[Image.Image], count: int, layer: int
) -> None:
    model = fastv(llava_folder, count, layer)
    encoded, prompts = asked(model, pictures)
    found = read_prompts(model, encoded, prompts, DynamicCache())[:, -1]
    expected = torch.stack(
        [naive_hidden(model, *row, []) for row in zip(encoded, prompts, strict=True)]
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    whole = fastv(llava_folder, 9)
    assert not torch.allclose(
        found, read_prompts(whole, encoded, prompts, DynamicCache())[:, -1], atol=1e-3
    )


@torch.no_grad()
def read_prompts(
    model: FastV, encoded: Tensor, prompts: list[list[int]], cache: DynamicCache
) -> Tensor:
    reader, inputs = reader_of(model, encoded, prompts)
    return reader(**inputs, past_key_values=cache).last_hidden_state


def reader_of(
    model: FastV, encoded: Tensor, prompts: list[list[int]]
) -> tuple[DroppingReader, dict[str, Tensor]]:
    ids, mask = left_pad(prompts, torch.device("cpu"))
    is_image = ids == model.backbone.image_token_id
    reader = DroppingReader(
        model.backbone.language_model, model.layer, is_image, model.num_summary_tokens
    )
    chats = text_segment(model.backbone.embed_chat(ids, encoded), mask)
    return reader, model.backbone.arguments(chats)


@torch.no_grad()
def test_the_ranking_is_by_transformers_attention(
    llava_folder: Path, pictures: list[Image.Image]
) -> None:
    model, cache = fastv(llava_folder, 4, layer=1), DynamicCache()
    encoded, prompts = asked(model, pictures)
    reader, inputs = reader_of(model, encoded, prompts)
    reader(**inputs, past_key_values=cache)
    found = reader.attention_of_last(*inputs.values(), cache)
    model.backbone.language_model.config._attn_implementation = "eager"
    for row, prompt in enumerate(prompts):
        embeddings = inputs["inputs_embeds"][row, -len(prompt) :][None]
        weights = model.backbone.language_model(
            inputs_embeds=embeddings, output_attentions=True
        ).attentions[0]
        torch.testing.assert_close(found[row, -len(prompt) :], weights[0, :, -1].mean(0))
        assert not found[row, : -len(prompt)].any()


def test_the_cache_of_the_layers_above_is_shorter(
    llava_folder: Path, pictures: list[Image.Image]
) -> None:
    model, cache = fastv(llava_folder, 4), DynamicCache()
    encoded, prompts = asked(model, pictures)
    read_prompts(model, encoded, prompts, cache)
    longest = max(map(len, prompts))
    assert [cache.get_seq_length(layer) for layer in range(3)] == [longest, longest, longest - 5]


def test_kept_places_are_in_order_with_all_text() -> None:
    is_image = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]).bool()
    attended = torch.tensor([[0.9, 0.1, 0.3, 0.2, 0.9], [0.9, 0.9, 0.3, 0.1, 0.2]])
    assert kept_places(attended, is_image, 2).tolist() == [[0, 2, 3, 4], [0, 1, 2, 4]]


def test_prompts_without_a_picture_are_answered(llava_folder: Path) -> None:
    model, plain = fastv(llava_folder, 4), built(llava_folder, "average_pooling", "none", 4)
    prompts = [encode_prompt(model.backbone.chat, question, 0) for question in QUESTIONS]
    assert model.answer(None, prompts, NEW) == plain.answer(None, prompts, NEW)


def test_nothing_is_trained(llava_folder: Path) -> None:
    model = fastv(llava_folder, 4)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    fastv_params = {"name": "baselines/fastv", "module_steps": 100}
    assert MethodParams.model_validate(fastv_params | {"tuning": "none"}).short_name == "fastv"
    with pytest.raises(ValidationError, match=r"fastv trains nothing; set method\.tuning to none"):
        MethodParams.model_validate(fastv_params | {"tuning": "trained"})


def test_a_language_model_with_too_few_layers_is_refused(llava_folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"fastv\.yaml: layer: 3 of 3 layers leaves none; take 1 to 2"
    ):
        fastv(llava_folder, 4, layer=3)


def test_a_question_costs_the_tower_and_fewer_tokens_above(llava_folder: Path) -> None:
    model, whole = fastv(llava_folder, 4), fastv(llava_folder, 9)
    saved = whole.question_flops(3000, 7, 2.5) - model.question_flops(3000, 7, 2.5)
    assert saved == pytest.approx(2 * 1000 * 5)  # one of three layers reads five tokens less
    width = 16
    tower = (
        3 * 16 * 16 * width + 2 * (4 * width * width + 2 * width * 4 * width) + width * 32 + 32 * 32
    )  # the third layer does not run
    assert whole.question_flops(3000, 7, 2.5) == pytest.approx(2 * tower * 9 + 2 * 3000 * (9 + 9.5))
