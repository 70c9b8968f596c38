import math
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlavaForConditionalGeneration

from components.training.optimizer import (
    CombinedOptimizer,
    Optimizer,
    OptimizerParams,
    build_optimizer,
    clip_gradients,
    gradient_norm,
    learning_rate_at,
)


def schedule(peak: float, warmup_share: float, decay_share: float) -> OptimizerParams:
    return OptimizerParams(
        matrices="adamw",
        momentum=0.95,
        learning_rate=peak,
        warmup_share=warmup_share,
        decay_share=decay_share,
        betas=(0.9, 0.999),
        weight_decay=0.0,
        max_gradient_norm=1.0,
    )


def test_learning_rate_follows_the_closed_form() -> None:
    rates = [
        learning_rate_at(step, 100, schedule(2.0, warmup_share=0.1, decay_share=0.9))
        for step in range(101)
    ]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10:] == pytest.approx([1 + math.cos(math.pi * i / 90) for i in range(91)])
    assert rates[55] == pytest.approx(1.0)  # half-way down
    assert rates[100] == pytest.approx(0.0)


def test_learning_rate_is_constant_between_warmup_and_decay() -> None:
    rates = [
        learning_rate_at(step, 100, schedule(2.0, warmup_share=0.1, decay_share=0.3))
        for step in range(101)
    ]
    assert rates[10:71] == [2.0] * 61
    assert rates[70:] == pytest.approx([1 + math.cos(math.pi * i / 30) for i in range(31)])


def test_learning_rate_without_warmup_starts_at_the_peak() -> None:
    assert learning_rate_at(0, 10, schedule(3.0, 0.0, 1.0)) == 3.0


def test_a_run_of_one_step_has_a_learning_rate() -> None:
    assert learning_rate_at(0, 1, schedule(3.0, 0.03, 0.3)) == 3.0


@pytest.mark.parametrize(("max_norm", "scale"), [(1.0, 0.2), (10.0, 1.0)])
def test_clipping_scales_all_gradients_together(max_norm: float, scale: float) -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert clip_gradients(parameters, max_norm) == 5.0
    assert parameters[0].grad.tolist() == pytest.approx([3.0 * scale, 0.0])
    assert parameters[1].grad.tolist() == pytest.approx([4.0 * scale])


def test_gradient_norm_is_taken_over_all_parameters() -> None:
    parameters = [nn.Parameter(torch.zeros(3)) for _ in range(2)]
    for parameter in parameters:
        parameter.grad = torch.ones(3)
    assert float(gradient_norm(parameters)) == pytest.approx(math.sqrt(6))


def parameters() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {
        "layer.lora_A.compression.weight": nn.Parameter(torch.randn(4, 32)),
        "layer.lora_B.compression.weight": nn.Parameter(torch.randn(32, 4)),
        "queries.weight": nn.Parameter(torch.randn(3, 32)),
        "reducer.queries": nn.Parameter(torch.randn(3, 32)),
        "log_logit_scale": nn.Parameter(torch.tensor(2.0)),
    }


def moved(matrices: str, gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By how much one step changes each parameter."""
    params = schedule(1.0, 0.0, 1.0).model_copy(update={"matrices": matrices})
    trained = parameters()
    optimizer = build_optimizer(trained, params)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    for name, parameter in trained.items():
        parameter.grad = gradients[name]
    optimizer.step()
    return {name: (parameter - parameters()[name]).detach() for name, parameter in trained.items()}


def test_muon_moves_the_matrices_of_the_adapters_in_all_directions_alike_and_adamw_the_rest() -> (
    None
):
    gradients = {name: torch.randn_like(parameter) for name, parameter in parameters().items()}
    u, _, v = torch.linalg.svd(gradients["layer.lora_A.compression.weight"], full_matrices=False)
    gradients["layer.lora_A.compression.weight"] = (
        u @ torch.diag(torch.tensor([9.0, 3.0, 1.0, 0.5])) @ v
    )
    muon, adamw = moved("muon", gradients), moved("adamw", gradients)
    for name in ("queries.weight", "reducer.queries", "log_logit_scale"):
        torch.testing.assert_close(muon[name], adamw[name])
        # AdamW's first step
        torch.testing.assert_close(adamw[name], -0.01 * gradients[name].sign())
    strengths = torch.linalg.svdvals(muon["layer.lora_A.compression.weight"])
    # Newton and Schulz come close to 1, the gradient has 18
    assert strengths.max() / strengths.min() < 2
    step = muon["layer.lora_A.compression.weight"].square().mean().sqrt()
    # as long as AdamW's are in practice (arXiv 2502.16982, §2.2)
    assert 0.7 < step / (0.2 * 0.01) < 1.3


@pytest.mark.parametrize("matrices", ["muon", "adamw"])
def test_an_optimizer_goes_on_from_its_saved_state(matrices: str) -> None:
    params = schedule(1.0, 0.0, 1.0).model_copy(update={"matrices": matrices})
    straight, resumed = parameters(), parameters()
    first = build_optimizer(straight, params)
    gradients = [{name: torch.randn_like(p) for name, p in straight.items()} for _ in range(4)]

    def steps(trained: dict[str, nn.Parameter], optimizer: Optimizer, which: slice) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        for step in gradients[which]:
            for name, parameter in trained.items():
                parameter.grad = step[name]
            optimizer.step()

    steps(straight, first, slice(0, 4))
    before = build_optimizer(resumed, params)
    steps(resumed, before, slice(0, 2))
    after = build_optimizer(resumed, params)
    after.load_state_dict(before.state_dict())
    steps(resumed, after, slice(2, 4))
    for name, parameter in straight.items():
        assert torch.equal(parameter, resumed[name])


@pytest.mark.parametrize("name", ["layers.0.lora_A", "bias"])
def test_one_of_the_two_optimizers_may_have_nothing_to_do(name: str) -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = build_optimizer(
        {name: weight}, schedule(1.0, 0.0, 1.0).model_copy(update={"matrices": "muon"})
    )
    weight.grad = torch.ones(2, 2)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    assert (weight < 1).all()


def test_muon_moves_layers_and_connector_and_leaves_tables_and_scales(
    llava_folder: Path,
) -> None:
    llava = LlavaForConditionalGeneration.from_pretrained(llava_folder)
    names = dict(llava.named_parameters())
    params = schedule(1.0, 0.0, 1.0).model_copy(update={"matrices": "muon"})
    optimizer = build_optimizer(names, params)
    assert isinstance(optimizer, CombinedOptimizer)
    moved = {id(p) for group in optimizer.optimizers["muon"].param_groups for p in group["params"]}

    muons = {name for name, parameter in names.items() if id(parameter) in moved}
    assert {name for name in muons if "projector" in name} == {
        f"model.multi_modal_projector.linear_{number}.weight" for number in (1, 2)
    }
    assert "model.language_model.layers.0.mlp.down_proj.weight" in muons
    tables = ("embed_tokens", "lm_head", "norm", "bias", "position_embedding")
    assert not [name for name in muons if any(part in name for part in tables)]
