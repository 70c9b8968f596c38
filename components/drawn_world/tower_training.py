"""A head start for the vision tower: it learns to name what each patch shows.

LLaVA starts from a vision tower that CLIP trained and keeps it frozen; a tower that starts from
nothing leaves the language model without a signal for tens of thousands of pictures
(docs/experiments.md). So the tower first learns from dense labels, one per patch and attribute,
with linear heads that are thrown away, and is frozen from then on. The layers behind the patches
that LLaVA reads learn from the same labels what CLIP's learn from captions: to gather in the class
token what the picture shows. Only methods that ask what this token attends to read them.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, get_linear_schedule_with_warmup

from components.model.families.llava import num_read_layers
from components.params import Params

EMPTY_WEIGHT = 0.1  # of patches that show nothing: they are nine in ten


class TowerParams(Params):
    """Settings of the head start, whose steps are counted by themselves."""

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
    """Train the tower in place on `batches`; return the last loss.

    Args:
        batches: pixel values (batch, 3, height, width) and labels (batch, patches, attributes)
            int64, 0 = nothing.
        num_classes: classes of each attribute, "nothing" included.
    """

    def patch_loss(heads: nn.ModuleList, pixel_values: Tensor, labels: Tensor) -> Tensor:
        features = patch_features(model, pixel_values)
        losses = [_loss(head(features), labels[..., i]) for i, head in enumerate(heads)]
        return torch.stack(losses).sum()

    tower = model.model.vision_tower
    return _train(tower, patch_loss, batches, _heads(tower, num_classes), params)


def train_class_token(
    model: LlavaForConditionalGeneration,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: Sequence[int],
    params: TowerParams,
) -> float:
    """Train the layers behind those that the connector reads, in place; return the last loss.

    The class token says which classes occur anywhere in the picture. Arguments as for
    `train_tower`.
    """
    # Layers that the connector does not read, so that patches stay as `train_tower` left them.
    tower = model.model.vision_tower
    behind = nn.ModuleList([*tower.encoder.layers[num_read_layers(model) :], tower.post_layernorm])

    def picture_loss(heads: nn.ModuleList, pixel_values: Tensor, labels: Tensor) -> Tensor:
        class_token = tower(pixel_values).pooler_output  # (batch, vision dim)
        losses = []
        for i, (head, count) in enumerate(zip(heads, num_classes, strict=True)):
            # 1 for every class that some patch shows, (batch, classes)
            is_shown = F.one_hot(labels[..., i], count).amax(1).float()
            losses.append(F.binary_cross_entropy_with_logits(head(class_token), is_shown))
        return torch.stack(losses).sum()

    return _train(behind, picture_loss, batches, _heads(tower, num_classes), params)


def _heads(tower: Any, num_classes: Sequence[int]) -> nn.ModuleList:
    """Build a linear head per attribute."""
    return nn.ModuleList(nn.Linear(tower.config.hidden_size, count) for count in num_classes)


def _train(
    part: nn.Module,
    loss_of: Callable[[nn.ModuleList, Tensor, Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    heads: nn.ModuleList,
    params: TowerParams,
) -> float:
    """Train a part of the tower with heads that are thrown away."""
    part.requires_grad_(True)
    optimizer = torch.optim.AdamW([*part.parameters(), *heads.parameters()], params.learning_rate)
    schedule = get_linear_schedule_with_warmup(optimizer, params.num_warmup_steps, params.num_steps)

    loss = torch.zeros(())
    for pixel_values, labels in batches:
        loss = loss_of(heads, pixel_values, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    # Frozen again, as LLaVA keeps its tower.
    part.requires_grad_(False)
    return float(loss.detach())


def patch_features(model: LlavaForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """Return the features that the connector reads, (batch, patches, vision dim): patches only."""
    hidden_states = model.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states
    return hidden_states[model.config.vision_feature_layer][:, 1:]


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    weight = torch.ones(logits.shape[-1])
    weight[0] = EMPTY_WEIGHT
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight=weight)
