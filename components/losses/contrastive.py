"""The contrastive loss on the summary tokens (Eq. 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    logit_scale: Tensor,
    negative_embeddings: Tensor | None = None,
) -> Tensor:
    """Symmetric cross-entropy over the cosine similarities of all pairs; row i of both sides belongs together.

    All (batch, dim), L2-normalised; under data parallelism `batch` is the global batch, gathered
    with gradients. `negative_embeddings` (any number, dim) are further texts that no image belongs
    to; a row of zeros is none. `logit_scale` is the multiplier itself (1 / temperature), not its
    logarithm. Returns a float32 scalar at least.
    """
    logits_per_image = logit_scale * image_embeddings @ text_embeddings.T  # (batch, batch)
    logits_per_text = logits_per_image.T
    if negative_embeddings is not None:
        further = logit_scale * image_embeddings @ negative_embeddings.T
        is_none = ~negative_embeddings.detach().any(dim=1)
        logits_per_image = torch.cat(
            [logits_per_image, further.masked_fill(is_none, -torch.inf)], dim=1
        )
    targets = torch.arange(len(image_embeddings), device=image_embeddings.device)
    return (
        F.cross_entropy(logits_per_image, targets) + F.cross_entropy(logits_per_text, targets)
    ) / 2
