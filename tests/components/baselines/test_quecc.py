from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from components.baselines.quecc import QueCC, QueCCParams, QuestionReduced
from components.methods.blocks.vision_tower import Reading, TowerShape
from components.methods.method import Method
from components.model.adapters import GENERATION
from components.model.chat import encode_prompt
from components.model.generation import left_pad
from components.training.forward import tokens_of_rows
from tests.components.methods.building import built, conversations, without_gradient

SHAPE = TowerShape(side=4, channels=8, dim=6)
SETTINGS = QueCCParams(layers=(-2, -3), num_heads=2)
QUESTIONS = ("what?", "what colour is the large square?", "two?")


@pytest.fixture
def model(llava_folder: Path) -> QuestionReduced:
    model = built(llava_folder, "quecc", count=1)
    assert isinstance(model, QuestionReduced)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # as they start, the tokens are nearly the same whatever is asked
        for parameter in model.reducer.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def prompts(model: Method) -> list[list[int]]:
    return [
        encode_prompt(model.backbone.chat, question, model.num_placeholders)
        for question in QUESTIONS
    ]


def tokens(model: QuestionReduced, encoded: Tensor, rows: list[list[int]]) -> Tensor:
    ids, mask = left_pad(rows, torch.device("cpu"))
    return model.tokens_for_questions(encoded, ids, model.is_question(ids, mask))


@torch.no_grad()
def test_tokens_are_those_of_a_loop_over_pictures_and_cells() -> None:
    reducer = QueCC(SHAPE, 4, SETTINGS, nn.Linear(8, 6))
    for parameter in reducer.parameters():
        parameter.normal_()
    layers, questions = (torch.randn(2, 16, 8), torch.randn(2, 16, 8)), torch.randn(2, 6)
    found = reducer.for_questions(reducer(Reading(layers, None, None)), questions)
    kernel, attend = reducer.pool.weight[:, 0], reducer.read_cells.attention
    for picture in range(2):
        asked = reducer.query(layers[0][picture] + reducer.question(questions[picture]))
        everything = torch.cat([layer[picture] for layer in layers], dim=1)
        keys, values = reducer.read_cells.key(everything), reducer.read_cells.value(everything)
        for number, corner in enumerate((0, 2, 8, 10)):
            inside = [corner, corner + 1, corner + 4, corner + 5]
            query = reducer.pool.bias.clone()
            for place, patch in enumerate(inside):
                query += kernel[:, place // 2, place % 2] * asked[patch]
            read = attend(query[None], keys[inside], values[inside], need_weights=False)[0][0]
            torch.testing.assert_close(
                found[picture, number], reducer.connect(read), rtol=1e-4, atol=1e-4
            )


@torch.no_grad()
def test_a_question_is_read_alone_with_the_adapter_of_the_answer(model: QuestionReduced) -> None:
    rows = prompts(model)
    ids, mask = left_pad(rows, torch.device("cpu"))
    found = model.read_questions(ids, model.is_question(ids, mask))
    for row, question in enumerate(rows):
        last = max(
            place for place, token in enumerate(question) if token == model.backbone.image_token_id
        )
        words = torch.tensor([[model.tokenizer.bos_token_id, *question[last + 1 :]]])
        with model.adapters.use(GENERATION):
            hidden = model.backbone.language_model(
                inputs_embeds=model.backbone.embed(words)
            ).last_hidden_state
        torch.testing.assert_close(found[row], hidden[0, -1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_tokens_follow_the_question_and_not_the_padding(
    model: QuestionReduced, pictures: list[Image.Image]
) -> None:
    encoded = model.compress_pictures(model.backbone.prepare(pictures[:1])).expand(3, -1, -1)
    rows = prompts(model)
    together = tokens(model, encoded, rows)
    alone = torch.cat([tokens(model, encoded[:1], [row]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@torch.no_grad()
def test_training_makes_the_tokens_that_answering_makes(model: QuestionReduced) -> None:
    """Conversations, one of them without a picture, whose rows go on with the answer."""
    batch = conversations(model, (0, 4, 2, 5))
    encoded = model.compress_for_training(batch.pictures)
    found = tokens_of_rows(model, batch, encoded)
    asked = encode_prompt(model.backbone.chat, "what colour is it?", model.num_placeholders)
    expected = tokens(model, encoded[batch.conversation_pictures], [asked] * len(found))
    assert len(found) == 3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_chat_without_a_question_does_no_harm(model: QuestionReduced) -> None:
    ids = torch.tensor(prompts(model)[0])[None].expand(2, -1)
    is_question = torch.zeros_like(ids, dtype=torch.bool)
    assert model.read_questions(ids, is_question).isfinite().all()


def test_the_question_is_read_without_a_gradient(
    model: QuestionReduced, pictures: list[Image.Image]
) -> None:
    encoded = model.compress_pictures(model.backbone.prepare(pictures[:3]))
    tokens(model, encoded, prompts(model)).square().sum().backward()
    assert all(p.grad is None for p in model.backbone.language_model.parameters())
    assert model.reducer.question[0].weight.grad is not None


def test_all_that_is_trained_gets_a_gradient(llava_folder: Path) -> None:
    assert not without_gradient(built(llava_folder, "quecc", count=1))


def test_a_question_costs_the_tower_and_two_readings_of_itself(model: QuestionReduced) -> None:
    width, patches = 16, 9
    layer = 4 * width * width + 2 * width * 4 * width
    # patch embedding, layers that run, connector
    tower = 3 * 16 * 16 * width + 2 * layer + width * 32 + 32 * 32
    assert model.question_flops(1000, 7, 2.5) == 2 * tower * patches + 2 * 1000 * (1 + 14 + 2.5)
