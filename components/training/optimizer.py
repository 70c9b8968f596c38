"""AdamW over what is trained, a cosine schedule as a pure function of the step, and clipping by the global norm."""

import math
from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor, nn

from components.params import Params


class OptimizerParams(Params):
    """One setting for everything that is trained: both adapters, the summary queries, the logit scale."""

    learning_rate: float = Field(gt=0)  # at the end of the warm-up
    warmup_share: float = Field(ge=0, lt=1)  # of all steps, linear from 0
    decay_share: float = Field(gt=0, le=1)  # of all steps, half a cosine down to 0; the rate is constant in between
    betas: tuple[float, float]  # decay of AdamW's two running means
    weight_decay: float = Field(ge=0)
    max_gradient_norm: float = Field(gt=0)  # gradients with a longer global norm are scaled down to it


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def build_optimizer(parameters: Iterable[nn.Parameter], params: OptimizerParams) -> torch.optim.AdamW:
    """AdamW in one fused kernel, which for hundreds of small tensors is several times as fast, also on a CPU."""
    return torch.optim.AdamW(parameters, lr=0.0, betas=params.betas, weight_decay=params.weight_decay, fused=True)


def learning_rate_at(step: int, num_steps: int, params: OptimizerParams) -> float:
    """Linear warm-up to the peak, constant, then half a cosine down to 0 at `num_steps`; `step` counts from 0.

    Shares of warm-up and decay that add up to 1 are the paper's plain cosine.
    """
    num_warmup_steps = math.ceil(params.warmup_share * num_steps)
    if step < num_warmup_steps:
        return params.learning_rate * (step + 1) / num_warmup_steps
    num_decay_steps = min(math.ceil(params.decay_share * num_steps), num_steps - num_warmup_steps)
    share_done = max(0, step - (num_steps - num_decay_steps)) / num_decay_steps
    return params.learning_rate * 0.5 * (1 + math.cos(math.pi * share_done))


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients together so that their global L2 norm is at most `max_norm`; returns the norm before."""
    parameters = list(parameters)
    norm = gradient_norm(parameters)
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The L2 norm over the gradients of several parameters, a scalar."""
    return torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
