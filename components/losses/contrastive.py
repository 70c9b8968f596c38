"""The contrastive loss on the summary tokens (Eq. 3), for pictures with one text or several."""

import torch
from torch import Tensor

# the logit of what is left out; minus infinity has no gradient where nothing else is there
LEFT_OUT = -1e9


def contrastive_loss(
    images: Tensor,
    texts: Tensor,
    logit_scale: Tensor,
    negatives: Tensor,
    is_true: Tensor,
    is_true_negative: Tensor,
) -> Tensor:
    """Compute the symmetric cross-entropy over the cosine similarities of pictures and texts.

    Each text of a picture is told from the texts of the others, and the picture from the other
    pictures; with one text per picture that is Eq. (3). What is true by accident counts neither as
    right nor as wrong: a text of another picture that holds for this one too is left out.

    Args:
        images: (pictures, dim), L2-normalised; under data parallelism the global batch, gathered
            with gradients.
        texts: (pictures, texts, dim), L2-normalised: row i belongs to picture i. A text of zeros
            is none.
        logit_scale: the multiplier itself (1 / temperature), not its logarithm.
        negatives: (pictures, negatives, dim), further texts that are wrong for their picture.
            Zeros are none.
        is_true: (pictures, pictures, texts) bool, whether text t of row j holds for picture i.
        is_true_negative: the same of the negatives.

    Returns:
        A scalar, float32 at least: the mean over all texts, of both ways.
    """
    # (pictures, pictures, texts): of every picture to every text
    scaled = logit_scale * images
    logits = (scaled @ texts.flatten(0, 1).T).unflatten(1, texts.shape[:2])
    exists = texts.detach().any(-1)  # (pictures, texts)
    is_own = torch.eye(len(images), dtype=torch.bool, device=images.device)[..., None]
    own = logits.diagonal().T  # (pictures, texts)

    # the pictures for which a text is wrong, together: (pictures, texts)
    wrong_pictures = logits.masked_fill(is_true | is_own, LEFT_OUT).logsumexp(0)

    # the texts that are wrong for a picture, together: (pictures, 1)
    wrong_texts = logits.masked_fill(is_true | is_own | ~exists, LEFT_OUT).flatten(1)
    further = scaled @ negatives.flatten(0, 1).T
    is_none = is_true_negative | ~negatives.detach().any(-1)
    further = further.masked_fill(is_none.flatten(1), LEFT_OUT)
    wrong_texts = torch.cat([wrong_texts, further], dim=1).logsumexp(1, keepdim=True)

    # cross-entropy by differences, in which what all logits have in common cancels exactly
    costs = log1p_exp(wrong_pictures - own) + log1p_exp(wrong_texts - own)
    return costs[exists].mean() / 2


def log1p_exp(values: Tensor) -> Tensor:
    """Compute log(1 + exp(x)); PyTorch's softplus drops the 1 where x is large."""
    return torch.logaddexp(torch.zeros_like(values), values)
