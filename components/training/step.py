"""One step of the double-forward training: the gradient of both losses, averaged over the workers, and one update."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from components.methods.method import Method
from components.training.collate import TrainBatch
from components.training.distributed import average_gradients
from components.training.forward import LossParams, step_losses
from components.training.gradient_caching import backward_in_chunks
from components.training.optimizer import (
    Optimizer,
    clip_gradients,
    gradient_norm,
    trained_parameters,
)


def backward_step(
    model: Method, chunks: Sequence[TrainBatch], params: LossParams
) -> dict[str, Tensor]:
    """Leave the global gradient in `.grad` of everything trained; returns the global losses.

    `chunks` are this worker's samples, in parts that fit into memory (`StepSamples.chunks`). A loss
    or gradient that is not finite on one worker is not finite on any after the average, so all
    decide alike.
    """
    model.zero_grad(set_to_none=True)
    if len(chunks) == 1:
        losses = step_losses(model, chunks[0])
        losses.weighted(params).backward()
    else:
        losses = backward_in_chunks(model, chunks, params)
    names = ("loss", "autoregressive_loss", "contrastive_loss")
    values = torch.stack([losses.weighted(params), *losses]).detach()
    averaged = average_gradients(trained_parameters(model).values(), values)
    return dict(zip(names, averaged, strict=True))


def backward_module_alone(
    model: Method, chunks: Sequence[TrainBatch], params: LossParams
) -> dict[str, Tensor]:
    """As `backward_step`, without gradients for the language model, its adapters included: a first stage of training.

    What has no gradient stays as it is, and no optimizer counts a step for it.
    """
    losses = backward_step(model, chunks, params)
    for parameter in model.backbone.language_model.parameters():
        parameter.grad = None
    return losses


def train_step(
    model: Method,
    optimizer: Optimizer,
    backward: Callable[[], dict[str, Tensor]],
    learning_rate: float,
    max_gradient_norm: float,
) -> dict[str, float]:
    """One update, the same on every worker; with a gradient that is not finite, nothing changes and `is_skipped` is 1.

    `backward` leaves the gradient in `.grad` and returns the losses, "loss" their weighted sum.
    Returns losses, gradient norms before clipping (all, and per part), logit scale and learning
    rate.
    """
    metrics = backward()
    trained = trained_parameters(model)
    for part in (*model.adapters.names, *model.parts):
        if its_own := [p for name, p in trained.items() if part in name.split(".")]:
            metrics[f"gradient_norm_{part}"] = gradient_norm(its_own)
    metrics["gradient_norm"] = clip_gradients(trained.values(), max_gradient_norm)
    is_finite = torch.isfinite(metrics["gradient_norm"] + metrics["loss"])
    if is_finite:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        model.clamp_logit_scale()
    values = torch.stack([*metrics.values(), model.logit_scale.detach()]).tolist()
    return {
        **dict(zip([*metrics, "logit_scale"], values, strict=True)),
        "learning_rate": learning_rate,
        "is_skipped": float(not is_finite),
    }
