import pytest
import torch

from components.losses.autoregressive import IGNORE_INDEX
from components.model.double_forward import DoubleForward
from components.training.collate import LengthParams, TrainBatch, TrainSample, collate, pad
from components.training.sampler import StepSamples
from tests.components.training.world import LENGTHS, samples


def batch_of(model: DoubleForward, groups: StepSamples, lengths: LengthParams = LENGTHS) -> TrainBatch:
    return collate(samples(10), groups, model.backbone, model.num_summary_tokens, lengths)


def decoded(model: DoubleForward, ids: torch.Tensor) -> str:
    return model.backbone.tokenizer.decode(ids)


def test_every_row_finds_its_own_picture(model: DoubleForward) -> None:
    groups = StepSamples(autoregressive=(2, 4, 0), contrastive=(3, 0))
    batch = batch_of(model, groups)
    pictures = [samples(10)[index].image for index in (2, 0)]
    expected = model.backbone.pixel_values([picture for picture in pictures if picture])
    assert torch.equal(batch.pixel_values[batch.conversation_pictures], expected)  # 4 is text-only
    pictures = [samples(10)[index].image for index in (3, 0)]
    expected = model.backbone.pixel_values([picture for picture in pictures if picture])
    assert torch.equal(batch.pixel_values[batch.caption_pictures], expected)


def test_placeholders_stand_where_there_is_a_picture(model: DoubleForward) -> None:
    batch = batch_of(model, StepSamples((2, 4), ()))
    placeholders = (batch.conversation_ids == model.backbone.image_token_id).sum(1)
    assert placeholders.tolist() == [model.num_summary_tokens, 0]


def test_labels_are_the_answers_and_padding_is_ignored(model: DoubleForward) -> None:
    batch = batch_of(model, StepSamples((2, 0), ()))
    for ids, mask, labels in zip(batch.conversation_ids, batch.conversation_mask, batch.labels, strict=True):
        labelled = labels != IGNORE_INDEX
        assert torch.equal(ids[labelled], labels[labelled])
        assert not labelled[mask == 0].any()
    assert decoded(model, batch.labels[1][batch.labels[1] != IGNORE_INDEX]).strip() == "it is red</s>"


def test_texts_are_cut(model: DoubleForward) -> None:
    lengths = LengthParams(max_caption_tokens=3, max_conversation_tokens=10)
    full, cut = (batch_of(model, StepSamples((0, 1), (0, 1)), given) for given in (LENGTHS, lengths))
    assert cut.caption_ids.shape == (2, 3)
    assert cut.conversation_ids.shape == cut.labels.shape == (2, 10)
    assert torch.equal(cut.caption_ids, full.caption_ids[:, :3])
    assert torch.equal(cut.conversation_ids, full.conversation_ids[:, :10])


def test_padding_is_on_the_right() -> None:
    values, mask = pad([[1, 2, 3], [4]], 9)
    assert values.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_no_rows_make_an_empty_batch(model: DoubleForward) -> None:
    batch = collate({}, StepSamples((), ()), model.backbone, model.num_summary_tokens, LENGTHS)
    assert [len(tensor) for tensor in batch] == [0] * len(batch)


def test_a_conversation_that_does_not_fit_is_named(model: DoubleForward) -> None:
    picture = samples(1)[0].image
    sample = TrainSample("sample-x", picture, [{"role": "assistant", "content": "red"}], None)
    with pytest.raises(ValueError, match="sample sample-x: "):
        collate({0: sample}, StepSamples((0,), ()), model.backbone, model.num_summary_tokens, LENGTHS)
