from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.answering.decoding import DecodingParams, row_draws
from components.answering.prompts import answer_prompts, shared_length
from components.methods.fwd2bot import DoubleForward
from components.model.adapters import GENERATION
from components.model.chat import encode_prompt
from tests.components.model.families import FAMILIES, save_family
from tests.components.model.tiny import COMPRESSOR, compressor

K = COMPRESSOR.num_summary_tokens
NEW_TOKENS = 12
GREEDY = DecodingParams(max_new_tokens=NEW_TOKENS, temperature=0.0, top_p=1.0, seed=0)
SAMPLED = DecodingParams(max_new_tokens=NEW_TOKENS, temperature=1.3, top_p=0.9, seed=5)
QUESTIONS = [
    "what?",
    "what colour is the small circle above the star?",
    "is it large?",
    "how many are there, then?",
]
PICTURES = [0, 1, 2, 2, 2, 0, 1, 0]  # of each prompt


def some_tokens(model: DoubleForward, num_pictures: int = 3) -> Tensor:
    return torch.randn(
        num_pictures, K, model.backbone.dim, generator=torch.Generator().manual_seed(3)
    )


def some_prompts(model: DoubleForward, questions: Sequence[str] = QUESTIONS) -> list[list[int]]:
    return [
        encode_prompt(model.backbone.chat, question, K)
        for question in (questions * 2)[: len(PICTURES)]
    ]


def ask(
    model: DoubleForward,
    prompts: Sequence[list[int]],
    pictures: Sequence[int],
    params: DecodingParams,
    size: int = 3,
) -> list[list[int]]:
    draws = row_draws(
        [(str(picture), str(prompt)) for picture, prompt in zip(pictures, prompts, strict=True)],
        params,
    )
    return answer_prompts(
        model.backbone, some_tokens(model), pictures, prompts, draws, params, size
    )


@pytest.mark.parametrize("ends_early", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_answers_are_those_of_each_prompt_alone_without_a_shared_prefix(
    model: DoubleForward, batch_size: int, ends_early: bool
) -> None:
    prompts, tokens = some_prompts(model), some_tokens(model)
    expected = [
        model.answer(tokens[picture][None], [prompt], NEW_TOKENS)[0]
        for picture, prompt in zip(PICTURES, prompts, strict=True)
    ]
    # a random model never ends an answer: let tokens that some answers hold be end tokens
    if ends_early:
        ends = [2, expected[0][1], expected[1][4]]
        model.backbone.vlm.generation_config.eos_token_id = ends
        expected = [
            row[: next((i for i, token in enumerate(row) if token in ends), None)]
            for row in expected
        ]
        assert len({len(row) for row in expected}) > 1
    model.adapters.merge(GENERATION)
    assert ask(model, prompts, PICTURES, GREEDY, batch_size) == expected


def test_a_sampled_answer_does_not_depend_on_its_batch(model: DoubleForward) -> None:
    model.adapters.merge(GENERATION)
    prompts = some_prompts(model)
    together = ask(model, prompts, PICTURES, SAMPLED, 100)
    assert ask(model, prompts[::-1], PICTURES[::-1], SAMPLED, 3)[::-1] == together
    assert [
        ask(model, [prompt], [picture], SAMPLED)[0]
        for picture, prompt in zip(PICTURES, prompts, strict=True)
    ] == together
    assert len({tuple(row) for row in together}) == len(together)
    assert ask(model, prompts, PICTURES, SAMPLED.model_copy(update={"seed": 6})) != together


def test_one_question_about_every_picture_is_shared_but_for_its_last_token(
    model: DoubleForward,
) -> None:
    model.adapters.merge(GENERATION)
    prompt = some_prompts(model)[1]
    assert shared_length([prompt] * 3, model.backbone.image_token_id) == len(prompt) - 1
    expected = [ask(model, [prompt], [picture], GREEDY)[0] for picture in range(3)]
    assert ask(model, [prompt] * 3, range(3), GREEDY) == expected


def test_prompts_share_what_they_begin_with_or_nothing() -> None:
    assert shared_length([[1, 5, 9, 9, 4, 7], [1, 5, 9, 9, 4]], 9) == 4
    assert shared_length([[1, 5, 9, 9, 4, 7], [1, 5, 9, 9, 4, 8]], 9) == 5
    assert shared_length([[1, 5, 9, 9, 4], [1, 6, 9, 9, 4]], 9) == 0


def test_merged_weights_answer_as_the_adapter_does_in_every_number_type(llava_folder: Path) -> None:
    """In bfloat16 the sum is rounded once: logits agree as far as that number type goes."""
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 5e-2)):
        model = compressor(llava_folder, dtype)
        ids = torch.tensor([some_prompts(model)[1]])
        with torch.inference_mode():
            adapted = model.generation_hidden(
                some_tokens(model)[:1], ids, torch.ones_like(ids)
            ).float()
            model.adapters.merge(GENERATION)
            merged = read_without_adapter(model, ids)
        assert (adapted - merged).norm() / adapted.norm() < tolerance


def read_without_adapter(model: DoubleForward, ids: Tensor) -> Tensor:
    embeddings = model.backbone.embed_chat(ids, some_tokens(model)[:1])
    return model.backbone.language_model(inputs_embeds=embeddings).last_hidden_state.float()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "llava"])
def test_every_family_answers_as_without_a_shared_prefix(family: str, tmp_path: Path) -> None:
    save_family(family, tmp_path)
    model = compressor(tmp_path)
    prompts, tokens = some_prompts(model), some_tokens(model)
    expected = [
        model.answer(tokens[picture][None], [prompt], NEW_TOKENS)[0]
        for picture, prompt in zip(PICTURES, prompts, strict=True)
    ]
    model.adapters.merge(GENERATION)
    assert ask(model, prompts, PICTURES, GREEDY) == expected
