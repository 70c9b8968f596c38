"""Embedders in the training step: losses fall, chunks change nothing, texts need no picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from components import schema
from components.methods.catalogue import build_method
from components.methods.method import Method
from components.methods.method_settings import ChosenMethod
from components.params import load_params
from components.training.budgets import all_tokens
from components.training.collate import TrainBatch, collate
from components.training.forward import LossParams
from components.training.negatives import hard_negative
from components.training.optimizer import build_optimizer, trained_parameters
from components.training.sampler import StepSamples
from components.training.samples import SampleTable, write_sample_file
from components.training.step import backward_step, update_weights
from components.training.step_batches import training_steps
from components.training.text_pairs import as_text_pair
from components.training.training_settings import TrainParams
from components.training.validation_scores import ValidationSet, validate
from tests.components.methods.settings import SETTINGS
from tests.components.model.tiny import COMPRESSOR, load
from tests.components.training.world import (
    COLOURS,
    LENGTHS,
    OPTIMIZER,
    sample,
    samples,
    write_curated,
)

ROOT = Path(__file__).parents[3]
Groups = tuple[tuple[str, ...], ...]
NAMES = ["dual_encoder", "e5v", "vlm2vec"]
CONTRASTIVE_ONLY = LossParams(
    autoregressive_weight=0.0, contrastive_weight=1.0, max_similarity_weight=0.0
)
WRONG = (tuple(COLOURS),)  # words that stand in for one another


def built(folder: Path, name: str) -> Method:
    adapters = COMPRESSOR.adapters.model_copy(update={"dropout": 0.0})
    params = COMPRESSOR.model_copy(update={"adapters": adapters})
    chosen = ChosenMethod(name=name, tuning="trained", settings=SETTINGS[name])
    return build_method(load(folder), params, chosen, seed=0).train()


def chunks_of(model: Method, size: int, groups: Groups = ()) -> list[TrainBatch]:
    """Make chunks of eight pairs, with wrong captions if there are groups."""
    table = {index: sample for index, sample in samples(20).items() if index % 5 < 2}
    if groups:
        rng = np.random.default_rng(0)
        wrong = {
            index: hard_negative(row.caption or "", groups, (), None, rng)
            for index, row in table.items()
        }
        table = {index: row._replace(hard_negatives=[wrong[index]]) for index, row in table.items()}
    if model.learns_from_texts:
        table = {index: as_text_pair(row) for index, row in table.items()}
    texts = LENGTHS.model_copy(update={"hard_negatives": groups, "max_caption_tokens": 40})
    return [
        collate(
            {i: table[i] for i in chunk.contrastive},
            chunk,
            model,
            all_tokens(model.num_summary_tokens),
            texts,
        )
        for chunk in StepSamples((), tuple(table)).chunks(size)
    ]


def gradient(model: Method) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in trained_parameters(model).values()])


@pytest.mark.parametrize("groups", [(), WRONG])
@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_contrastive_loss(
    name: str, groups: Groups, llava_folder: Path
) -> None:
    model = built(llava_folder, name)
    optimizer = build_optimizer(trained_parameters(model), OPTIMIZER)
    chunks = chunks_of(model, 100, groups)
    found = []
    for _ in range(15):
        values = backward_step(model, chunks, CONTRASTIVE_ONLY)
        found.append(update_weights(model, optimizer, values, 1e-2, 1.0))
    losses = [metrics["contrastive_loss"] for metrics in found]
    assert losses[-1] < 0.9 * losses[0]
    assert all(metrics["is_skipped"] == 0 for metrics in found)
    moved = found[-1]["logit_scale"] != pytest.approx(found[0]["logit_scale"], rel=1e-6)
    assert moved == (name == "dual_encoder")


@pytest.mark.parametrize("name", NAMES)
def test_wrong_captions_are_more_columns(name: str, llava_folder: Path) -> None:
    model = built(llava_folder, name)
    plain, harder = (
        backward_step(model, chunks_of(model, 100, groups), CONTRASTIVE_ONLY)["loss"]
        for groups in ((), WRONG)
    )
    assert harder > plain


@pytest.mark.parametrize("groups", [(), WRONG])
@pytest.mark.parametrize("name", NAMES)
def test_chunks_give_the_gradient_of_the_whole(
    name: str, groups: Groups, llava_folder: Path
) -> None:
    model = built(llava_folder, name)
    expected = backward_step(model, chunks_of(model, 100, groups), CONTRASTIVE_ONLY)
    whole = gradient(model)
    chunks = chunks_of(model, 3, groups)
    assert len(chunks) == 3
    found = backward_step(model, chunks, CONTRASTIVE_ONLY)
    torch.testing.assert_close(found["loss"], expected["loss"])
    assert (gradient(model) - whole).norm() / whole.norm() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_the_stage_draws_pairs_only(name: str, llava_folder: Path, tmp_path: Path) -> None:
    write_curated(tmp_path, num_samples=25, num_validation=2)
    write_sample_file(
        sorted((tmp_path / "samples" / schema.TRAIN).glob("*.parquet")), tmp_path / "samples.arrow"
    )
    values = load_params("train", TrainParams, ROOT / "params.yaml").model_dump()
    values["method"] |= {"name": f"baselines/{name}"}
    values["loop"] |= {"num_steps": 3}
    params = TrainParams.model_validate(
        values | {"contrastive_batch_size": 4, "samples_per_chunk": 3}
    )
    assert params.method.num_module_steps == 0
    model = built(llava_folder, name)
    values = []
    for chunks in training_steps(params, model, SampleTable(tmp_path / "samples.arrow"), 0, print):
        assert sum(chunk.num_pairs for chunk in chunks) == 4
        assert not any(len(chunk.conversation_ids) for chunk in chunks)
        assert all((chunk.num_pictures == 0) == (name == "e5v") for chunk in chunks)
        losses = backward_step(model, chunks, params.taught)
        assert losses["loss"] == losses["contrastive_loss"]
        values.append(losses["loss"])
    # a step that drew one sample several times has nothing to tell apart
    assert max(values) > 0


@pytest.mark.parametrize("name", [*NAMES, "lvlm_zero_shot"])
def test_validation_is_of_retrieval_alone(name: str, llava_folder: Path) -> None:
    rows = [sample(5 * i) for i in range(4)]
    data = ValidationSet([row.image for row in rows], [row.caption or "" for row in rows], [])
    metrics = validate(built(llava_folder, name), data, 3, 4, 12)
    assert set(metrics) == {"recall_at_1_image_to_text", "recall_at_1_text_to_image", "score"}
