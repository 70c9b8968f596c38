"""The contrastive loss on the summary tokens (Eq. 3), for pictures with one text or several.

By the mean of the tokens, as in the paper, and by MaxSim of all of them.
"""

import torch
from torch import Tensor

from components.losses.late_interaction import maxsim

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
    further = scaled @ negatives.flatten(0, 1).T

    exists = texts.detach().any(-1)  # (pictures, texts)
    is_none = is_true_negative | ~negatives.detach().any(-1)
    return symmetric_cross_entropy(logits, further, exists, is_true, is_none.flatten(1))


def max_similarity_loss(
    images: Tensor,
    texts: Tensor,
    logit_scale: Tensor,
    negatives: Tensor,
    is_true: Tensor,
    is_true_negative: Tensor,
) -> Tensor:
    """Compute the same loss with MaxSim in place of the cosine of two means.

    A pair has one score, whichever side is searched for: each token of the text looks for its like
    among those of the picture, so that what a text leaves out does not count against it. Divided by
    the number of tokens it lies between -1 and 1, as a cosine does, and takes the same multiplier.

    Args: as of `contrastive_loss`, with all tokens in place of each embedding: images
    (pictures, tokens, dim), texts (pictures, texts, tokens, dim), negatives likewise; each token
    L2-normalised.
    """
    scale = logit_scale / images.shape[1]
    logits = (scale * maxsim(texts.flatten(0, 1), images)).T.unflatten(1, texts.shape[:2])
    further = (scale * maxsim(negatives.flatten(0, 1), images)).T

    exists = texts.detach().flatten(2).any(-1)
    is_none = is_true_negative | ~negatives.detach().flatten(2).any(-1)
    return symmetric_cross_entropy(logits, further, exists, is_true, is_none.flatten(1))


def symmetric_cross_entropy(
    logits: Tensor, further: Tensor, exists: Tensor, is_true: Tensor, is_none: Tensor
) -> Tensor:
    """Tell each text from other pictures and each picture from other texts: the mean cost.

    Args:
        logits: (pictures, pictures, texts), of every picture to every text of every picture.
        further: (pictures, further texts), to texts that belong to no picture.
        exists: (pictures, texts) bool, whether there is such a text.
        is_true: bool like `logits`, whether the text holds for the picture.
        is_none: bool like `further`, whether the text is missing or holds for the picture.
    """
    is_own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)[..., None]
    own = logits.diagonal().T  # (pictures, texts)

    # the pictures for which a text is wrong, together: (pictures, texts)
    wrong_pictures = logits.masked_fill(is_true | is_own, LEFT_OUT).logsumexp(0)

    # the texts that are wrong for a picture, together: (pictures, 1)
    wrong_texts = logits.masked_fill(is_true | is_own | ~exists, LEFT_OUT).flatten(1)
    further = further.masked_fill(is_none, LEFT_OUT)
    wrong_texts = torch.cat([wrong_texts, further], dim=1).logsumexp(1, keepdim=True)

    # cross-entropy by differences, in which what all logits have in common cancels exactly
    costs = log1p_exp(wrong_pictures - own) + log1p_exp(wrong_texts - own)
    return costs[exists].mean() / 2


def log1p_exp(values: Tensor) -> Tensor:
    """Compute log(1 + exp(x)); PyTorch's softplus drops the 1 where x is large."""
    return torch.logaddexp(torch.zeros_like(values), values)
