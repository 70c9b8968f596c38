"""The contrastive loss on the summary tokens (Eq. 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(image_embeddings: Tensor, text_embeddings: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric cross-entropy over the cosine similarities of all pairs; row i of both sides belongs together.

    Both (batch, dim), L2-normalised; under data parallelism `batch` is the global batch, gathered with gradients.
    `logit_scale` is the multiplier itself (1 / temperature), not its logarithm. Returns a float32 scalar at least.
    """
    logits_per_image = logit_scale * image_embeddings @ text_embeddings.T  # (batch, batch)
    targets = torch.arange(len(image_embeddings), device=image_embeddings.device)
    return (F.cross_entropy(logits_per_image, targets) + F.cross_entropy(logits_per_image.T, targets)) / 2
