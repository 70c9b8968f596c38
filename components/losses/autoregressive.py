"""The next-token loss of the generation pass (Eq. 2).

Logits are computed at label positions only, and of these a chunk at a time: with a language model's
vocabulary they would be larger than everything else.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# the label of a token that is not to be learned (PyTorch's and Hugging Face's value)
IGNORE_INDEX = -100
POSITIONS_PER_CHUNK = 1024  # times 32,000 tokens in float32: 131 MB of logits at a time


def autoregressive_loss(hidden: Tensor, lm_head: nn.Module, labels: Tensor) -> Tensor:
    """Compute the mean cross-entropy over the labelled tokens; without any 0, with a gradient path.

    hidden (batch, tokens, dim); labels (batch, tokens), one per input token: hidden at t predicts
    label t + 1.
    """
    targets = labels[:, 1:]
    num_targets = (targets != IGNORE_INDEX).sum().clamp(min=1)
    return answer_loss_sum(hidden[:, :-1], lm_head, targets) / num_targets


def answer_loss_sum(hidden: Tensor, lm_head: nn.Module, targets: Tensor) -> Tensor:
    """Sum the cross-entropy of `hidden` (batch, positions, dim) for `targets` (batch, positions).

    A sum, for an exact mean over several workers or chunks. Positions of target IGNORE_INDEX do not
    count.
    """
    is_wanted = targets != IGNORE_INDEX
    trained = [weight for weight in lm_head.parameters() if weight.requires_grad]
    return HeadCrossEntropy.apply(
        hidden[is_wanted], targets[is_wanted], lm_head, POSITIONS_PER_CHUNK, *trained
    )


class HeadCrossEntropy(torch.autograd.Function):
    """The summed cross-entropy of a head's logits, of which only a chunk exists at any time.

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
        """Sum over hidden (positions, dim) and targets (positions,), a scalar in float32 at least.

        Weights of the head among `trained` get a gradient too.
        """
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        by_chunk: list[Tensor] = []
        of_weights = [torch.zeros_like(weight) for weight in trained]
        chunks = zip(hidden.split(chunk_size), targets.split(chunk_size), strict=True)
        for rows, row_targets in chunks:
            # a graph of this chunk alone
            with torch.set_grad_enabled(any(ctx.needs_input_grad)):
                rows = rows.detach().requires_grad_(torch.is_grad_enabled())
                # a view, because module hooks cannot follow a leaf
                logits = lm_head(rows.view_as(rows))
                loss = F.cross_entropy(logits.to(total.dtype), row_targets, reduction="sum")
            total += loss.detach()

            # its gradients at once; the logits are let go of with the graph
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
        """Scale the saved gradients by the gradient of the sum."""
        of_rows, *of_weights = (saved * gradients[0].to(saved.dtype) for saved in ctx.saved_tensors)
        return of_rows, None, None, None, *of_weights
