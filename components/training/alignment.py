"""A first phase that teaches the compression adapter to read in both directions.

A causal language model has never seen a token from its right, and the paper leaves open whether a
phase of its own makes up for it (Table 12). This is masked next-token prediction (LLM2Vec,
BehnamGhader et al., 2024, arXiv 2404.05961, §2.2) with the picture in front: words of a caption are
hidden, and the position before each tells which it was.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from components.losses.autoregressive import IGNORE_INDEX, answer_loss_sum
from components.methods.fwd2bot import DoubleForward
from components.params import Params
from components.training.collate import TrainBatch
from components.training.distributed import average_gradients, sum_over_workers, world_size
from components.training.forward import image_embeddings_of
from components.training.optimizer import trained_parameters


class AlignmentParams(Params):
    """The first phase, on the captions of the contrastive group; schedule and optimizer go on."""

    num_steps: int = Field(ge=0)  # of loop.num_steps, the first; 0: no such phase
    masked_share: float = Field(gt=0, lt=1)  # of the tokens of a caption


class Masked(NamedTuple):
    """Captions with hidden tokens."""

    is_hidden: Tensor  # (captions, tokens) bool
    targets: Tensor  # (captions, tokens): the ids of hidden tokens, IGNORE_INDEX elsewhere


def backward_alignment(
    model: DoubleForward, chunks: Sequence[TrainBatch], masked_share: float
) -> dict[str, Tensor]:
    """Leave the global gradient in `.grad` of what takes part; return the global loss.

    The loss is the mean over the hidden tokens of all workers, whatever the chunks. Which tokens
    are hidden follows from PyTorch's random numbers, which the step has seeded.
    """
    model.zero_grad(set_to_none=True)

    # the number of hidden tokens of all workers, by which the sum is divided
    masked = [hide_tokens(chunk, masked_share) for chunk in chunks]
    counts = torch.stack([part.is_hidden.sum() for part in masked])
    num_hidden = sum_over_workers(counts.sum()).clamp(min=1)

    # one graph at a time
    total = model.log_logit_scale.new_zeros(())
    for chunk, part in zip(chunks, masked, strict=True):
        if len(chunk.caption_pictures):
            loss = alignment_loss_sum(model, chunk, part) * world_size() / num_hidden
            loss.backward()
            total = total + loss.detach()

    # what takes no part has no gradient on any worker and keeps none, so that no optimizer counts
    # a step for it
    learning = [p for p in trained_parameters(model).values() if p.grad is not None]
    averaged = average_gradients(learning, torch.stack([total, total]))
    return dict(zip(("loss", "alignment_loss"), averaged, strict=True))


def hide_tokens(chunk: TrainBatch, masked_share: float) -> Masked:
    """Choose tokens of the captions of a chunk at random, each for itself."""
    input_ids, mask = chunk.captions.ids, chunk.captions.mask
    is_chosen = torch.rand(input_ids.shape) < masked_share
    is_hidden = is_chosen.to(input_ids.device) & mask.bool()
    return Masked(is_hidden, input_ids.masked_fill(~is_hidden, IGNORE_INDEX))


def alignment_loss_sum(model: DoubleForward, chunk: TrainBatch, masked: Masked) -> Tensor:
    """Sum the cross-entropy of the hidden tokens, each predicted at the position before it."""
    pictures = image_embeddings_of(model, chunk).rows(chunk.caption_pictures)
    captions = chunk.captions
    hidden = model.masked_hidden(pictures, captions.ids, captions.mask, masked.is_hidden)
    return answer_loss_sum(hidden, model.backbone.lm_head, masked.targets)
