"""Which texts are true of which pictures of a batch."""

import numpy as np
import torch

from components.methods.fwd2bot import DoubleForward
from components.training.budgets import all_tokens
from components.training.collate import TrainBatch, TrainSample, collate
from components.training.forward import what_is_true
from components.training.phrases import with_phrases
from components.training.sampler import StepSamples
from tests.components.training.world import LENGTHS, samples

TEXTS = LENGTHS.model_copy(
    update={"phrases_per_caption": 2, "hard_negatives": (("red", "green", "blue", "yellow"),)}
)
PLAUSIBLE = {phrase for sample in samples(40).values() for phrase in sample.known_phrases}
MEMBERS = (0, 1, 3, 5, 6, 8, 10, 11)


def chosen() -> dict[int, TrainSample]:
    table = samples(12)
    return {i: with_phrases(table[i], TEXTS, PLAUSIBLE, np.random.default_rng(i)) for i in MEMBERS}


def batch_of(model: DoubleForward, members: tuple[int, ...]) -> TrainBatch:
    table = {index: chosen()[index] for index in members}
    return collate(table, StepSamples((), members), model.backbone, all_tokens(4), TEXTS)


def test_a_text_holds_for_every_picture_that_has_it(model: DoubleForward) -> None:
    table = chosen()
    batches = [batch_of(model, MEMBERS[:3]), batch_of(model, MEMBERS[3:])]
    captions, found, wrong = what_is_true(batches).split([1, 2, 2], dim=2)

    for row, i in enumerate(MEMBERS):
        true = {table[i].caption, *table[i].known_phrases}
        for column, j in enumerate(MEMBERS):
            assert captions[row, column].item() == (table[j].caption in true)
            assert found[row, column].tolist() == [text in true for text in table[j].phrases]
            for negative, is_true in zip(table[j].hard_negatives, wrong[row, column], strict=True):
                assert negative is None or bool(is_true) == (negative in true)

    # each of its own, and some of others by accident
    is_own = torch.eye(len(MEMBERS), dtype=torch.bool)
    assert found[is_own].all()
    assert found[~is_own].any()


def test_texts_of_another_row_about_the_same_picture_are_true(model: DoubleForward) -> None:
    table = chosen()
    first, second = MEMBERS[:2]
    table[second] = table[second]._replace(image_sha256=table[first].image_sha256)
    groups = StepSamples((), MEMBERS)
    batch = collate(table, groups, model.backbone, all_tokens(4), TEXTS)
    captions, phrases, wrong = what_is_true([batch]).split([1, 2, 2], dim=2)
    assert captions[0, 1].all()
    assert captions[1, 0].all()
    assert phrases[0, 1].all()
    assert captions.sum() == len(MEMBERS) + 2

    # what is wrong for a picture stays wrong for it, in whichever row it stands
    apart = what_is_true([batch_of(model, MEMBERS)])[..., 3:]
    assert torch.equal(wrong, apart)
