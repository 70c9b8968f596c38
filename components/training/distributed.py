"""Messages between workers: gathered embeddings, sums, and one flat average of all gradients.

Every function does nothing when there is no process group, so the same step runs in a plain Python
process.
"""

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Value = TypeVar("Value")


class GatherWithGradient(torch.autograd.Function):
    """All workers' rows in order of rank; the gradient of a row is summed over the workers."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = slice(dist.get_rank() * len(rows), (dist.get_rank() + 1) * len(rows))
        return gather(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # every worker's loss reads these rows
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.rows]


def rank() -> int:
    """Return the number of this worker, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of workers, 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(rows: Tensor) -> Tensor:
    """Gather (batch, …) of every worker as (world_batch, …) on each, without gradient."""
    if world_size() == 1:
        return rows
    gathered = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)


def gather_with_gradient(rows: Tensor) -> Tensor:
    """Gather (batch, …) of every worker as (world_batch, …) on each; all bring equally many rows.

    When each worker computes the same loss from the gathered rows and gradients are averaged over
    workers, the result is the gradient of that loss in one process.
    """
    return GatherWithGradient.apply(rows) if world_size() > 1 else rows


def sum_over_workers(values: Tensor) -> Tensor:
    """Sum a tensor over all workers, without gradient; the argument is left as it is."""
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def gather_objects(value: Value) -> list[Value]:
    """Gather small values of all workers in order of rank, pickled."""
    values: list[Any] = [value]
    if world_size() > 1:
        values *= world_size()
        dist.all_gather_object(values, value)
    return values


def average_gradients(parameters: Iterable[nn.Parameter], values: Tensor) -> Tensor:
    """Average `.grad` of the parameters over all workers, in place; return the average of `values`.

    A parameter without a gradient counts as zeros: every worker must send equally much.
    """
    # one flat message: the vector `values`, then every gradient
    parameters = list(parameters)
    parts = [values]
    for parameter in parameters:
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parts.append(gradient.flatten())
    flat = torch.cat(parts)
    if world_size() > 1:
        dist.all_reduce(flat)
        flat /= world_size()

    # gradients become views of the message
    averaged, *gradients = flat.split([len(part) for part in parts])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.view_as(parameter)
    return averaged
