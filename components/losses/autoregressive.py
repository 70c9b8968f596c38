"""The next-token loss of the generation pass (Eq. 2), with logits at label positions only, a chunk at a time."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# the label of a token that is not to be learned (PyTorch's and Hugging Face's value)
IGNORE_INDEX = -100
POSITIONS_PER_CHUNK = 1024  # times 32,000 words in float32: 131 MB of logits at a time


def autoregressive_loss(hidden: Tensor, lm_head: nn.Module, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled tokens; 0 (with a gradient path) when nothing is labelled.

    hidden (batch, tokens, dim); labels (batch, tokens), one per input token: hidden at t predicts
    label t + 1.
    """
    targets = labels[:, 1:]
    return answer_loss_sum(hidden[:, :-1], lm_head, targets) / (
        targets != IGNORE_INDEX
    ).sum().clamp(min=1)


def answer_loss_sum(hidden: Tensor, lm_head: nn.Module, targets: Tensor) -> Tensor:
    """Summed cross-entropy of what `hidden` (batch, positions, dim) predicts against `targets` (batch, positions).

    A sum, for an exact mean over several workers or chunks. Positions of target IGNORE_INDEX do not
    count.
    """
    is_wanted = targets != IGNORE_INDEX
    trained = [weight for weight in lm_head.parameters() if weight.requires_grad]
    return HeadCrossEntropy.apply(
        hidden[is_wanted], targets[is_wanted], lm_head, POSITIONS_PER_CHUNK, *trained
    )


class HeadCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of a head's logits, of which no more than a chunk exists at any time.

    The gradients, as large as the hidden states and the trained weights of the head, are computed
    at once in the forward pass from the logits of the chunk: nothing of the size of the vocabulary
    is kept or computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        lm_head: nn.Module,
        chunk_size: int,
        *trained: Tensor,
    ) -> Tensor:
        """Of hidden (positions, dim) and targets (positions,); `trained` weights of the head get a gradient too."""
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        by_chunk: list[Tensor] = []
        of_weights = [torch.zeros_like(weight) for weight in trained]
        for rows, row_targets in zip(
            hidden.split(chunk_size), targets.split(chunk_size), strict=True
        ):
            with torch.set_grad_enabled(any(ctx.needs_input_grad)):
                rows = rows.detach().requires_grad_(torch.is_grad_enabled())
                # a view, because module hooks cannot follow a leaf
                logits = lm_head(rows.view_as(rows))
                loss = F.cross_entropy(logits.to(total.dtype), row_targets, reduction="sum")
            total += loss.detach()
            if loss.requires_grad:
                of_rows, *of_trained = torch.autograd.grad(loss, [rows, *trained])
                by_chunk.append(of_rows)
                for so_far, part in zip(of_weights, of_trained, strict=True):
                    so_far += part
        if by_chunk:
            ctx.save_for_backward(torch.cat(by_chunk), *of_weights)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """What was saved, times the gradient of the sum."""
        of_rows, *of_weights = (saved * gradients[0].to(saved.dtype) for saved in ctx.saved_tensors)
        return of_rows, None, None, None, *of_weights
