"""A head start for the vision tower: name what each patch shows.

LLaVA starts from a vision tower that CLIP trained and keeps it frozen; a tower that starts from nothing leaves the
language model without a signal for tens of thousands of pictures (docs/experiments.md). So the tower first learns from
dense labels, one per patch and attribute, with linear heads that are thrown away, and is frozen from then on.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, get_linear_schedule_with_warmup

from components.params import Params

EMPTY_WEIGHT = 0.1  # of patches that show nothing: they are nine in ten


class TowerParams(Params):
    """The head start, counted in steps of their own."""

    num_steps: int = Field(ge=0)
    num_warmup_steps: int = Field(ge=0)
    batch_size: int = Field(ge=1)  # pictures
    learning_rate: float = Field(gt=0)


def train_tower(
    model: LlavaForConditionalGeneration,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: Sequence[int],
    params: TowerParams,
) -> float:
    """Train the tower in place on `batches`; returns the last loss.

    Args:
        batches: pixel values (batch, 3, height, width) and labels (batch, patches, attributes) int64, 0 = nothing.
        num_classes: classes of each attribute, "nothing" included.
    """
    tower = model.model.vision_tower.requires_grad_(True)
    dim = tower.config.hidden_size
    heads = nn.ModuleList(nn.Linear(dim, count) for count in num_classes)
    optimizer = torch.optim.AdamW([*tower.parameters(), *heads.parameters()], params.learning_rate)
    schedule = get_linear_schedule_with_warmup(optimizer, params.num_warmup_steps, params.num_steps)
    loss = torch.zeros(())
    for pixel_values, labels in batches:
        features = patch_features(model, pixel_values)
        loss = torch.stack([_loss(head(features), labels[..., i]) for i, head in enumerate(heads)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    tower.requires_grad_(False)
    return float(loss.detach())


def patch_features(model: LlavaForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """What the connector reads: (batch, patches, vision dim) of the chosen layer, class token dropped."""
    hidden_states = model.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states
    return hidden_states[model.config.vision_feature_layer][:, 1:]


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    weight = torch.ones(logits.shape[-1])
    weight[0] = EMPTY_WEIGHT
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight=weight)
