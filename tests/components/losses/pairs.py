"""Pairs of one picture and one text each, none of which is true of another."""

import torch
from torch import Tensor

from components.losses.contrastive import contrastive_loss


def pair_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Eq. (3) for images (pairs, dim) and texts (pairs, dim)."""
    count, dim = images.shape
    nothing = torch.zeros(count, count, 0, dtype=torch.bool)
    return contrastive_loss(
        images,
        texts[:, None],
        logit_scale,
        images.new_zeros(count, 0, dim),
        torch.zeros(count, count, 1, dtype=torch.bool),
        nothing,
    )
