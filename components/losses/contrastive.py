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
    """Compute the symmetric cross-entropy over the cosine similarities of all pairs.

    Row i of both sides belongs together. All (batch, dim), L2-normalised; under data parallelism
    `batch` is the global batch, gathered with gradients. `negative_embeddings` (any number, dim)
    are further texts that no image belongs to; a row of zeros is none. `logit_scale` is the
    multiplier itself (1 / temperature), not its logarithm. Returns a float32 scalar at least.
    """
    logits_per_image = logit_scale * image_embeddings @ text_embeddings.T  # (batch, batch)
    logits_per_text = logits_per_image.T

    # hard negatives are further columns for the images: (batch, batch + negatives)
    if negative_embeddings is not None:
        further = logit_scale * image_embeddings @ negative_embeddings.T
        is_none = ~negative_embeddings.detach().any(dim=1)
        logits_per_image = torch.cat(
            [logits_per_image, further.masked_fill(is_none, -torch.inf)], dim=1
        )

    # the diagonal is right, both ways
    targets = torch.arange(len(image_embeddings), device=image_embeddings.device)
    image_loss = F.cross_entropy(logits_per_image, targets)
    text_loss = F.cross_entropy(logits_per_text, targets)
    return (image_loss + text_loss) / 2
