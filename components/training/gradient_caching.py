"""A contrastive batch of any size in the memory of a small one (GradCache).

The contrastive loss needs all pairs at once, the passes do not. So the pairs are embedded twice, in
chunks (Gao et al., 2021, arXiv 2101.06983): first without a graph, which gives the loss and its
gradient with respect to each embedding; then with a graph, chunk by chunk, through which that
gradient is sent on. The second time also brings the autoregressive loss of the chunk's
conversations, and repeats the random numbers of the first, so that dropout drops the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from components.methods.method import Method
from components.training.collate import TrainBatch
from components.training.forward import (
    LossParams,
    Pairs,
    StepLosses,
    autoregressive_part,
    count_answer_tokens,
    embed_pairs,
    pair_losses,
    summary_tokens_of,
)


class RandomState(NamedTuple):
    """The state of the random generators of the CPU and of the GPU in use."""

    cpu: Tensor
    gpu: Tensor | None

    @classmethod
    def now(cls) -> "RandomState":
        return cls(
            torch.get_rng_state(),
            torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        )

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu)


class CachedPairs(NamedTuple):
    """Vectors of a chunk's pairs from the first reading, as leaves."""

    pairs: Pairs  # after the losses, `.grad` is what the second reading sends on
    before: RandomState  # of the first reading


def backward_in_chunks(
    model: Method, chunks: Sequence[TrainBatch], params: LossParams
) -> StepLosses:
    """Add this worker's gradient of the losses to `.grad`, one chunk's graph at a time.

    Returns the losses.
    """
    # messages to other workers come in the order of `step_losses`, which they may be in
    num_answer_tokens = count_answer_tokens(chunks)

    # first reading: the contrastive losses over all pairs, and their gradient at each vector
    cached: list[CachedPairs | None] = []
    for chunk in chunks:
        cached.append(embed_without_graph(model, chunk, params) if chunk.num_pairs else None)
    with_pairs = [chunk for chunk in chunks if chunk.num_pairs]
    pairs = [part.pairs for part in cached if part]
    of_pairs = cache_gradients(model, pairs, with_pairs, params)

    # second reading: from the vectors to the weights, and the autoregressive loss
    parts = []
    for chunk, part in zip(chunks, cached, strict=True):
        parts.append(backward_chunk(model, chunk, part, num_answer_tokens, params))
    return StepLosses(torch.stack(parts).sum(), *of_pairs)


@torch.no_grad()
def embed_without_graph(model: Method, chunk: TrainBatch, params: LossParams) -> CachedPairs:
    """Read a chunk for the first time; its pairs become leaves."""
    before = RandomState.now()
    pairs = embed_pairs(model, chunk, summary_tokens_of(model, chunk), params)
    for side in pairs:
        side.requires_grad_()
    return CachedPairs(pairs, before)


def cache_gradients(
    model: Method, parts: Sequence[Pairs], chunks: Sequence[TrainBatch], params: LossParams
) -> tuple[Tensor, Tensor]:
    """Compute both losses over all pairs, which are those of `chunks`.

    Leaves the gradient of their weighted sum in `.grad` of the pairs and of the logit scale.
    """
    if not parts:
        zero = model.log_logit_scale.new_zeros(())
        return zero, zero

    # each side in one piece, since the losses compare every pair with every other
    all_pairs = Pairs(*map(torch.cat, zip(*parts, strict=True)))
    by_mean, by_tokens = pair_losses(model, all_pairs, chunks, params)
    weighted = params.contrastive_weight * by_mean + params.max_similarity_weight * by_tokens
    weighted.backward()
    return by_mean.detach(), by_tokens.detach()


def backward_chunk(
    model: Method,
    chunk: TrainBatch,
    cached: CachedPairs | None,
    num_answer_tokens: Tensor,
    params: LossParams,
) -> Tensor:
    """Read a chunk for the second time and add its whole gradient to `.grad`.

    Returns its part of the autoregressive loss.
    """
    # the same dropout as in the first reading
    if cached:
        cached.before.restore()
    summary_tokens = summary_tokens_of(model, chunk)
    total = model.log_logit_scale.new_zeros(())

    # a sum whose gradient at each vector is the cached one
    if cached:
        sides = embed_pairs(model, chunk, summary_tokens, params)
        for side, first in zip(sides, cached.pairs, strict=True):
            if first.grad is not None:  # there may be no hard negatives
                total = total + (side * first.grad).sum()

    autoregressive = autoregressive_part(model, chunk, summary_tokens, num_answer_tokens)
    total = total + params.autoregressive_weight * autoregressive
    if total.requires_grad:
        total.backward()
    return autoregressive.detach()
