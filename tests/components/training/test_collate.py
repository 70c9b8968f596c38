import copy
from typing import Literal

import pytest
import torch

from components.losses.autoregressive import IGNORE_INDEX
from components.methods.fwd2bot import DoubleForward
from components.model.chat import ChatFormat, encode_conversation
from components.training.budgets import all_tokens
from components.training.collate import (
    REMEMBERED_CHARACTERS,
    REMEMBERED_CONVERSATIONS,
    TextParams,
    Texts,
    TrainBatch,
    TrainSample,
    collate,
    encode_chat,
    encode_sample,
    encode_short,
    pad,
    single_questions,
)
from components.training.forward import LossParams, step_losses
from components.training.sampler import StepSamples
from tests.components.model.tiny import COMPRESSOR
from tests.components.training.world import LENGTHS, samples

BUDGETS = all_tokens(COMPRESSOR.num_summary_tokens)
GENERATIVE = LossParams(
    autoregressive_weight=1.0, contrastive_weight=0.0, max_similarity_weight=0.0
)


def batch_of(
    model: DoubleForward, groups: StepSamples, lengths: TextParams = LENGTHS
) -> TrainBatch:
    return collate(samples(10), groups, model.backbone, BUDGETS, lengths)


def decoded(model: DoubleForward, ids: torch.Tensor) -> str:
    return model.backbone.tokenizer.decode(ids)


def test_every_row_finds_its_own_picture(model: DoubleForward) -> None:
    groups = StepSamples(autoregressive=(2, 4, 0), contrastive=(3, 0))
    batch = batch_of(model, groups)
    pictures = [samples(10)[index].image for index in (2, 0)]
    expected = model.backbone.prepare([picture for picture in pictures if picture]).tensors[
        "pixel_values"
    ]
    assert torch.equal(
        batch.pictures.tensors["pixel_values"][batch.conversation_pictures], expected
    )  # 4 is text-only
    pictures = [samples(10)[index].image for index in (3, 0)]
    expected = model.backbone.prepare([picture for picture in pictures if picture]).tensors[
        "pixel_values"
    ]
    assert torch.equal(batch.pictures.tensors["pixel_values"][batch.caption_pictures], expected)


def test_placeholders_stand_where_there_is_a_picture(model: DoubleForward) -> None:
    batch = batch_of(model, StepSamples((2, 4), ()))
    placeholders = (batch.conversation_ids == model.backbone.image_token_id).sum(1)
    assert placeholders.tolist() == [model.num_summary_tokens, 0]


def test_targets_are_the_answers_and_padding_is_ignored(model: DoubleForward) -> None:
    batch = batch_of(model, StepSamples((2, 0), ()))
    rows = zip(
        batch.conversation_ids,
        batch.conversation_mask,
        batch.predicting,
        batch.targets,
        strict=True,
    )
    for ids, mask, predicting, targets in rows:
        wanted = targets != IGNORE_INDEX
        assert torch.equal(ids[predicting[wanted] + 1], targets[wanted])
        assert mask[predicting[wanted] + 1].all()
    assert (
        decoded(model, batch.targets[1][batch.targets[1] != IGNORE_INDEX]).strip()
        == "it is red</s>"
    )


def test_texts_are_cut(model: DoubleForward) -> None:
    lengths = LENGTHS.model_copy(update={"max_caption_tokens": 3, "max_conversation_tokens": 10})
    full, cut = (
        batch_of(model, StepSamples((0, 1), (0, 1)), given) for given in (LENGTHS, lengths)
    )
    assert cut.captions.ids.shape == (2, 3)
    assert cut.conversation_ids.shape == (2, 10)
    assert torch.equal(cut.captions.ids, full.captions.ids[:, :3])
    assert torch.equal(cut.conversation_ids, full.conversation_ids[:, :10])


def test_padding_is_on_the_right() -> None:
    values, mask = pad([[1, 2, 3], [4]], 9)
    assert values.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_no_rows_make_an_empty_batch(model: DoubleForward) -> None:
    batch = collate({}, StepSamples((), ()), model.backbone, BUDGETS, LENGTHS)
    parts = [part for part in batch if isinstance(part, torch.Tensor | Texts)]
    assert [len(part) for part in parts] == [0] * (len(batch) - 2)
    assert not batch.num_pictures


def test_a_conversation_that_does_not_fit_is_named(model: DoubleForward) -> None:
    picture = samples(1)[0].image
    sample = TrainSample("sample-x", picture, [{"role": "assistant", "content": "red"}], None)
    with pytest.raises(ValueError, match="sample sample-x: "):
        collate({0: sample}, StepSamples((0,), ()), model.backbone, BUDGETS, LENGTHS)


def conversations() -> dict[int, TrainSample]:
    """Make samples: a picture and three questions, a picture and one, three without a picture."""
    more = [("is it large?", "no"), ("what is it called?", "a spot on a ground")]
    turns = [
        {"role": role, "content": text}
        for pair in more
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    rows = samples(5)
    return {
        i: rows[i]._replace(conversation=[*rows[i].conversation, *(turns if i != 1 else [])])
        for i in (0, 1, 4)
    }


def test_turns_apart_give_the_loss_of_each_question_asked_alone(model: DoubleForward) -> None:
    """The oracle asks one question at a time, in a row of its own; gradients agree too."""
    rows = conversations()
    alone = {
        100 * index + number: sample._replace(conversation=turns)
        for index, sample in rows.items()
        for number, turns in enumerate(single_questions(sample))
    }
    results = []
    for given, turns in ((rows, "apart"), (alone, "together")):
        texts = LENGTHS.model_copy(update={"turns": turns})
        batch = collate(given, StepSamples(tuple(given), ()), model.backbone, BUDGETS, texts)
        assert len(batch.conversation_ids) == len(given)
        model.zero_grad()
        loss = step_losses(model.eval(), batch, GENERATIVE).autoregressive
        loss.backward()
        assert model.queries.weight.grad is not None
        results.append((loss.detach(), model.queries.weight.grad.clone()))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-7)


def test_turns_together_see_what_was_said_before_and_apart_do_not(model: DoubleForward) -> None:
    row = conversations()[0]
    changed = [
        row.conversation[0],
        {"role": "assistant", "content": "something else"},
        *row.conversation[2:],
    ]
    for turns, sees in (("together", True), ("apart", False)):
        texts = LENGTHS.model_copy(update={"turns": turns})
        given = {0: row, 1: row._replace(conversation=changed)}
        batches = [
            collate({i: given[i]}, StepSamples((i,), ()), model.backbone, BUDGETS, texts)
            for i in given
        ]
        visual = torch.ones(1, model.num_summary_tokens, model.backbone.dim)
        hidden = [
            model.generation_hidden(
                visual,
                batch.conversation_ids,
                batch.conversation_mask,
                batch.conversation_positions,
            )[0, -1]
            for batch in batches
        ]
        assert torch.allclose(*hidden, atol=1e-5) != sees


def test_turns_apart_beyond_the_maximum_length_are_left_out_whole(model: DoubleForward) -> None:
    rows = {0: conversations()[0]}
    full, cut = (
        collate(
            rows,
            StepSamples((0,), ()),
            model.backbone,
            BUDGETS,
            LENGTHS.model_copy(update={"turns": "apart", "max_conversation_tokens": longest}),
        )
        for longest in (500, 60)
    )
    width = cut.conversation_ids.shape[1]
    assert model.num_summary_tokens < width <= 60 < full.conversation_ids.shape[1]
    torch.testing.assert_close(cut.conversation_ids, full.conversation_ids[:, :width])


@pytest.mark.parametrize("turns", ["together", "apart"])
@pytest.mark.parametrize("row_tokens", [1, 90, 1000])
def test_packed_rows_give_the_loss_and_gradients_of_rows_of_their_own(
    model: DoubleForward, turns: Literal["together", "apart"], row_tokens: int
) -> None:
    table = {**samples(10), **conversations()}
    groups = StepSamples(autoregressive=(2, 4, 0, 1, 6, 7, 9), contrastive=())
    results = []
    model.double().eval()
    for longest in (None, row_tokens):
        texts = LENGTHS.model_copy(update={"turns": turns, "max_row_tokens": longest})
        batch = collate(table, groups, model.backbone, BUDGETS, texts)
        assert (len(batch.conversation_ids) < len(groups.autoregressive)) == (longest in (90, 1000))
        model.zero_grad()
        loss = step_losses(model, batch, GENERATIVE).autoregressive
        loss.backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        results.append((loss.detach(), torch.cat(gradients)))
    (alone, expected), (packed, found) = results
    torch.testing.assert_close(packed, alone, rtol=1e-8, atol=0)
    assert (found - expected).norm() / expected.norm() < 1e-8


def test_a_short_conversation_is_encoded_once_and_its_tokens_stay_the_same(
    model: DoubleForward,
) -> None:
    encode_short.cache_clear()
    sample, apart = conversations()[0], LENGTHS.model_copy(update={"turns": "apart"})
    first, again = (
        encode_sample(sample, model.chat, model.image_token_id, 2, apart) for _ in range(2)
    )
    assert first == again
    num_questions = len(first.blocks)
    assert encode_short.cache_info()[:2] == (num_questions, num_questions)  # hits and misses

    # the same words for another model, another number of summary tokens, and without a picture
    turns = next(single_questions(sample))
    other = ChatFormat(copy.deepcopy(model.tokenizer))
    other.tokenizer.chat_template = other.tokenizer.chat_template.replace("ASSISTANT", "MODEL")
    for chat, num_read in [(model.chat, 3), (other, 2), (model.chat, 2)]:
        expected = encode_conversation(chat, turns, num_read)
        assert encode_chat(sample, turns, chat, num_read) == expected


def test_what_is_remembered_is_bounded(model: DoubleForward) -> None:
    encode_short.cache_clear()
    assert encode_short.cache_info().maxsize == REMEMBERED_CONVERSATIONS
    answer = {"role": "assistant", "content": "a" * REMEMBERED_CHARACTERS}
    turns = [{"role": "user", "content": "why?"}, answer]
    sample = TrainSample("long", None, turns, None)
    assert encode_chat(sample, turns, model.chat, 2) == encode_conversation(model.chat, turns, 0)
    assert encode_short.cache_info().currsize == 0
