import math

import pytest
import torch
from torch import nn

from components.training.optimizer import OptimizerParams, clip_gradients, gradient_norm, learning_rate_at


def schedule(peak: float, warmup_share: float, decay_share: float) -> OptimizerParams:
    return OptimizerParams(
        learning_rate=peak,
        warmup_share=warmup_share,
        decay_share=decay_share,
        betas=(0.9, 0.999),
        weight_decay=0.0,
        max_gradient_norm=1.0,
    )


def test_learning_rate_follows_the_closed_form() -> None:
    rates = [learning_rate_at(step, 100, schedule(2.0, warmup_share=0.1, decay_share=0.9)) for step in range(101)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10:] == pytest.approx([1 + math.cos(math.pi * i / 90) for i in range(91)])
    assert rates[55] == pytest.approx(1.0)  # half-way down
    assert rates[100] == pytest.approx(0.0)


def test_learning_rate_is_constant_between_warmup_and_decay() -> None:
    rates = [learning_rate_at(step, 100, schedule(2.0, warmup_share=0.1, decay_share=0.3)) for step in range(101)]
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
