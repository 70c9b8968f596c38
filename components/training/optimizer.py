"""Muon or AdamW, a schedule as a pure function of the step, and clipping by the global norm.

Muon (Jordan et al., 2024) moves a matrix by its orthogonalised momentum: every direction by the
same length, however small its singular value in the gradient. That suits matrices of layers; tables
of vectors, scales and biases are AdamW's.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from components.params import Params
from components.training.muon import Muon


class OptimizerParams(Params):
    """Settings for everything that is trained: adapters, summary queries, logit scale."""

    # what moves the matrices of adapters or layers; AdamW moves the rest
    matrices: Literal["muon", "adamw"]
    learning_rate: float = Field(gt=0)  # at the end of the warm-up
    warmup_share: float = Field(ge=0, lt=1)  # of all steps, linear from 0
    # of all steps, half a cosine down to 0; the rate is constant in between
    decay_share: float = Field(gt=0, le=1)
    betas: tuple[float, float]  # decay of AdamW's two running means
    momentum: float = Field(ge=0, lt=1)  # of Muon
    weight_decay: float = Field(ge=0)
    # gradients with a longer global norm are scaled down to it
    max_gradient_norm: float = Field(gt=0)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that training changes, by name."""
    return {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }


class Optimizer(Protocol):
    """The part of an optimizer's interface that training uses."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...

    def step(self) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class CombinedOptimizer:
    """Several optimizers, each for parameters of its own, as one."""

    def __init__(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = []
        for optimizer in self.optimizers.values():
            groups += optimizer.param_groups
        return groups

    def step(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])


def build_optimizer(parameters: Mapping[str, nn.Parameter], params: OptimizerParams) -> Optimizer:
    """Build Muon for matrices of layers and AdamW for the rest, or AdamW alone."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in parameters.items():
        is_muons = params.matrices == "muon" and parameter.ndim == 2 and is_of_layer(name)
        (matrices if is_muons else others).append(parameter)

    decay = params.weight_decay
    optimizers: dict[str, torch.optim.Optimizer] = {}
    if matrices:
        optimizers["muon"] = Muon(matrices, params.momentum, decay)
    if others:
        # one kernel for hundreds of small tensors is several times as fast, also on a CPU
        optimizers["adamw"] = torch.optim.AdamW(
            others, lr=0.0, betas=params.betas, weight_decay=decay, fused=True
        )
    return CombinedOptimizer(optimizers)


def is_of_layer(name: str) -> bool:
    """Return whether a parameter belongs to an adapter, a layer, the connector or a reducer.

    Queries are vectors in a table, which are no layer.
    """
    layers = ("lora_", ".layers.", "multi_modal_projector.", "reducer.")
    return any(part in name for part in layers) and not name.endswith("queries")


def learning_rate_at(step: int, num_steps: int, params: OptimizerParams) -> float:
    """Return the learning rate of a step, counted from 0.

    It rises linearly to the peak, stays, and falls along half a cosine to 0 at `num_steps`. Shares
    of warm-up and decay that add up to 1 are the paper's plain cosine.
    """
    num_warmup_steps = math.ceil(params.warmup_share * num_steps)
    if step < num_warmup_steps:
        return params.learning_rate * (step + 1) / num_warmup_steps

    # the share is 0 while the rate is constant, which makes the cosine 1
    num_decay_steps = min(math.ceil(params.decay_share * num_steps), num_steps - num_warmup_steps)
    share_done = max(0, step - (num_steps - num_decay_steps)) / num_decay_steps
    return params.learning_rate * 0.5 * (1 + math.cos(math.pi * share_done))


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients together to a global L2 norm of at most `max_norm`.

    Returns the norm before.
    """
    parameters = list(parameters)
    norm = gradient_norm(parameters)
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Compute the L2 norm over the gradients of several parameters, a scalar."""
    parameters = list(parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else parameters[0].new_zeros(())
