"""Every method that can be tuned, through one step: only what is to learn has a gradient."""

from pathlib import Path

import pytest
import torch

from components.methods.catalogue import build_method, method_names
from components.methods.method import AUTOREGRESSIVE, CONTRASTIVE, Method
from components.methods.method_settings import WITH_QUERIES, ChosenMethod
from components.training.budgets import Budgets
from components.training.collate import SPLITS, TrainBatch, collate
from components.training.forward import LossParams
from components.training.optimizer import trained_parameters
from components.training.sampler import StepSamples
from components.training.step import backward_module_alone, backward_step
from tests.components.methods.settings import REDUCERS, SETTINGS, UNTRAINED
from tests.components.model.tiny import COMPRESSOR, load
from tests.components.training.world import LENGTHS, samples

COMPARED = sorted(set(method_names()) - set(WITH_QUERIES))
TUNED = sorted(set(REDUCERS) - set(UNTRAINED))  # embedders have tests of their own


def tuned(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Method:
    """Build a method as training starts, but with second matrices of adapters that are not zero."""
    adapters = COMPRESSOR.adapters.model_copy(update={"dropout": 0.0})
    params = COMPRESSOR.model_copy(update={"adapters": adapters})
    chosen = ChosenMethod(name=name, tuning="trained", settings=SETTINGS[name])
    model = build_method(load(folder, dtype), params, chosen, seed=0).train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter_name, parameter in trained_parameters(model).items():
            if "lora_B" in parameter_name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def batch_of(model: Method) -> TrainBatch:
    """Collate five conversations, one without a picture, and what the method's losses need."""
    table = samples(7)
    conversations = tuple(index for index, sample in table.items() if sample.conversation)
    captions = tuple(
        index for index, sample in table.items() if sample.caption and CONTRASTIVE in model.losses
    )
    groups = StepSamples(conversations, captions)
    budgets = Budgets(model.budgets(()), seed=0, step=0)
    wanted = {index: table[index] for index in dict.fromkeys(conversations + captions)}
    return collate(wanted, groups, model.backbone, budgets, LENGTHS, SPLITS[model.reads_questions])


def losses(model: Method) -> LossParams:
    return LossParams(
        autoregressive_weight=float(AUTOREGRESSIVE in model.losses),
        contrastive_weight=float(CONTRASTIVE in model.losses),
        max_similarity_weight=0.0,
    )


def test_every_compared_method_has_settings_here() -> None:
    assert set(SETTINGS) == set(COMPARED)


@pytest.mark.parametrize("name", TUNED)
def test_all_that_is_trained_has_a_gradient_and_nothing_else(name: str, llava_folder: Path) -> None:
    model = tuned(llava_folder, name)
    values = backward_step(model, [batch_of(model)], losses(model))
    assert values["loss"].isfinite()
    assert values["loss"] > 0
    for parameter_name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, parameter_name
            continue
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", TUNED)
def test_in_the_first_stage_only_reducer_and_connector_learn(name: str, llava_folder: Path) -> None:
    model = tuned(llava_folder, name)
    backward_module_alone(model, [batch_of(model)], losses(model))
    assert all(parameter.grad is None for parameter in model.backbone.language_model.parameters())
    learning = {
        parameter_name for parameter_name, p in model.named_parameters() if p.grad is not None
    }
    assert learning
    of_the_method = tuple(f"{part}." for part in model.parts)
    assert all(
        n.startswith((*of_the_method, "backbone.vlm.")) and "lora_" not in n for n in learning
    ), learning


@pytest.mark.parametrize("name", TUNED)
def test_on_a_base_in_half_precision_what_learns_stays_in_single(
    name: str, llava_folder: Path
) -> None:
    model = tuned(llava_folder, name, torch.bfloat16)
    backward_step(model, [batch_of(model)], losses(model))
    for parameter_name, parameter in trained_parameters(model).items():
        assert parameter.dtype == parameter.grad.dtype == torch.float32, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("name", TUNED)
def test_chunks_give_the_gradient_of_the_whole(name: str, llava_folder: Path) -> None:
    model = tuned(llava_folder, name)
    batch, half = batch_of(model), batch_of(model)
    backward_step(model, [batch], losses(model))
    whole = {n: p.grad.clone() for n, p in trained_parameters(model).items()}
    backward_step(model, [batch, half], losses(model))  # the mean over twice the same
    for parameter_name, parameter in trained_parameters(model).items():
        torch.testing.assert_close(parameter.grad, whole[parameter_name], rtol=1e-3, atol=1e-6)
