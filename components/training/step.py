"""One step of the double-forward training: the gradient of the losses, then one update."""

from collections.abc import Sequence

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
    """Leave the global gradient in `.grad` of everything trained; return the global losses.

    `chunks` are this worker's samples, in parts that fit into memory (`StepSamples.chunks`). A loss
    or gradient that is not finite on one worker is not finite on any after the average, so all
    decide alike.
    """
    model.zero_grad(set_to_none=True)
    if len(chunks) == 1:
        losses = step_losses(model, chunks[0], params)
        losses.weighted(params).backward()
    else:
        losses = backward_in_chunks(model, chunks, params)

    # losses travel with the gradients, in one message
    named = losses.named(params)
    values = torch.stack(list(named.values())).detach()
    averaged = average_gradients(trained_parameters(model).values(), values)
    return dict(zip(named, averaged, strict=True))


def backward_module_alone(
    model: Method, chunks: Sequence[TrainBatch], params: LossParams
) -> dict[str, Tensor]:
    """Run `backward_step` and drop the gradients of the language model and its adapters.

    Without a gradient they stay as they are, and no optimizer counts a step for them: a first
    stage of training, for the modules that a compared method adds.
    """
    losses = backward_step(model, chunks, params)
    for parameter in model.backbone.language_model.parameters():
        parameter.grad = None
    return losses


def update_weights(
    model: Method,
    optimizer: Optimizer,
    losses: dict[str, Tensor],
    learning_rate: float,
    max_gradient_norm: float,
) -> dict[str, float]:
    """Move the weights along `.grad`, or skip the step if the loss or the gradient is not finite.

    Returns the losses, gradient norms before clipping (all, and per part), the logit scale, the
    learning rate, and `is_skipped`, 1 or 0.
    """
    metrics = dict(losses)
    trained = trained_parameters(model)
    for part in (*model.adapters.names, *model.parts):
        of_part = [p for name, p in trained.items() if part in name.split(".")]
        if of_part:
            metrics[f"gradient_norm_{part}"] = gradient_norm(of_part)
    metrics["gradient_norm"] = clip_gradients(trained.values(), max_gradient_norm)

    # one number that is not finite would stay in the weights and in the optimizer's means
    is_finite = torch.isfinite(metrics["gradient_norm"] + metrics["loss"])
    if is_finite:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        model.clamp_logit_scale()

    # one transfer from the device for all values
    metrics["logit_scale"] = model.logit_scale.detach()
    values = torch.stack(list(metrics.values())).tolist()
    return {
        **dict(zip(metrics, values, strict=True)),
        "learning_rate": learning_rate,
        "is_skipped": float(not is_finite),
    }
