"""One step of the double-forward training: two losses from one compression pass, averaged over the workers, one update.

The gradient does not depend on how the global batch is spread over workers: the autoregressive loss is a mean over the
labelled tokens of all workers, and the contrastive loss is computed over the gathered pairs of all workers.
"""

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from components.losses.autoregressive import autoregressive_loss_sum
from components.losses.contrastive import contrastive_loss
from components.model.adapters import ADAPTERS
from components.model.double_forward import DoubleForward
from components.params import Params
from components.training.collate import TrainBatch
from components.training.distributed import average_gradients, gather_with_gradient, sum_over_workers, world_size
from components.training.optimizer import Optimizer, clip_gradients, gradient_norm, trained_parameters


class LossParams(Params):
    """Weights of the two losses (Eq. 4 has 1 and 1); a loss of weight 0 is not computed."""

    autoregressive_weight: float = Field(ge=0)
    contrastive_weight: float = Field(ge=0)


class StepLosses(NamedTuple):
    """Scalars whose mean over workers is the loss of the global batch."""

    autoregressive: Tensor
    contrastive: Tensor


def step_losses(model: DoubleForward, batch: TrainBatch) -> StepLosses:
    """Both losses of this worker's slice; a group without samples counts 0."""
    summary_tokens = None
    if len(batch.pixel_values):
        image_embeddings = model.backbone.encode_images(batch.pixel_values)
        summary_tokens = model.compress_images(image_embeddings)  # (pictures, summary_tokens, dim)
    zero = model.log_logit_scale.new_zeros(())
    return StepLosses(
        autoregressive_part(model, batch, summary_tokens) if len(batch.conversation_ids) else zero,
        contrastive_part(model, batch, summary_tokens) if len(batch.caption_ids) else zero,
    )


def autoregressive_part(model: DoubleForward, batch: TrainBatch, summary_tokens: Tensor | None) -> Tensor:
    """Eq. (2): this worker's share of the mean over the labelled tokens of all workers."""
    if not len(batch.conversation_pictures):
        visual_tokens = None
    else:
        assert summary_tokens is not None
        visual_tokens = summary_tokens[batch.conversation_pictures]
    hidden = model.generation_hidden(
        visual_tokens, batch.conversation_ids, batch.conversation_mask, batch.conversation_positions
    )
    loss_sum, num_tokens = autoregressive_loss_sum(hidden, model.backbone.lm_head, batch.labels)
    return loss_sum * world_size() / sum_over_workers(num_tokens).clamp(min=1)


def contrastive_part(model: DoubleForward, batch: TrainBatch, summary_tokens: Tensor | None) -> Tensor:
    """Eq. (3) over the pairs of all workers; the same value on each."""
    assert summary_tokens is not None
    image_embeddings = model.embedding(summary_tokens[batch.caption_pictures])
    text_embeddings = model.embedding(model.compress_texts(batch.caption_ids, batch.caption_mask))
    return contrastive_loss(
        gather_with_gradient(image_embeddings), gather_with_gradient(text_embeddings), model.logit_scale
    )


def backward_step(model: DoubleForward, batch: TrainBatch, params: LossParams) -> dict[str, Tensor]:
    """Leave the global gradient in `.grad` of everything trained; returns the global losses.

    A loss or gradient that is not finite on one worker is not finite on any after the average, so all decide alike.
    """
    losses = step_losses(model, batch)
    loss = params.autoregressive_weight * losses.autoregressive + params.contrastive_weight * losses.contrastive
    model.zero_grad(set_to_none=True)
    loss.backward()
    names = ("loss", "autoregressive_loss", "contrastive_loss")
    values = average_gradients(trained_parameters(model).values(), torch.stack([loss, *losses]).detach())
    return dict(zip(names, values, strict=True))


def train_step(
    model: DoubleForward,
    optimizer: Optimizer,
    batch: TrainBatch,
    losses: LossParams,
    learning_rate: float,
    max_gradient_norm: float,
) -> dict[str, float]:
    """One update, the same on every worker; with a gradient that is not finite, nothing changes and `is_skipped` is 1.

    Returns losses, gradient norms before clipping (all, and per part), logit scale and learning rate.
    """
    metrics = backward_step(model, batch, losses)
    trained = trained_parameters(model)
    for part in (*ADAPTERS, "queries"):
        metrics[f"gradient_norm_{part}"] = gradient_norm(p for name, p in trained.items() if part in name.split("."))
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
