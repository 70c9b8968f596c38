"""The next-token loss of the generation pass (Eq. 2), with logits at label positions only."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORE_INDEX = -100  # the label of a token that is not to be learned (PyTorch's and Hugging Face's value)


def autoregressive_loss(hidden: Tensor, lm_head: nn.Module, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled tokens; 0 (with a gradient path) when nothing is labelled.

    hidden (batch, tokens, dim); labels (batch, tokens), one per input token: hidden at t predicts label t + 1.
    """
    loss_sum, num_tokens = autoregressive_loss_sum(hidden, lm_head, labels)
    return loss_sum / num_tokens.clamp(min=1)


def autoregressive_loss_sum(hidden: Tensor, lm_head: nn.Module, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The sum and the number of labelled tokens, for an exact mean over several workers or micro-batches."""
    targets = labels[:, 1:]
    is_labelled = targets != IGNORE_INDEX
    logits = lm_head(hidden[:, :-1][is_labelled])  # (labelled tokens, vocab)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, targets[is_labelled], reduction="sum"), is_labelled.sum()
