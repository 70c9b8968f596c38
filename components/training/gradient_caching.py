"""A contrastive batch of any size in the memory of a small one (GradCache, Gao et al., 2021, arXiv 2101.06983).

The contrastive loss needs all pairs at once, the passes do not. So the pairs are embedded twice, in
chunks: first without a graph, which gives the loss and its gradient with respect to each embedding;
then with a graph, chunk by chunk, through which that gradient is sent on. The second time also
brings the autoregressive loss of the chunk's conversations, and repeats the random numbers of the
first, so that dropout drops the same.
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
    global_contrastive_loss,
    summary_tokens_of,
)


class RandomState(NamedTuple):
    """Where the random numbers of the CPU and of the GPU in use are."""

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
    """The pairs of a chunk as the first reading gave them; after the loss, `.grad` holds what the second one needs."""

    pairs: Pairs
    before: RandomState


def backward_in_chunks(
    model: Method, chunks: Sequence[TrainBatch], params: LossParams
) -> StepLosses:
    """Add this worker's gradient of both losses to `.grad`, one chunk's graph at a time; returns the losses."""
    # first, as in `step_losses`, which another worker may be in
    num_answer_tokens = count_answer_tokens(chunks)
    cached = [
        embed_without_graph(model, chunk) if len(chunk.caption_ids) else None for chunk in chunks
    ]
    contrastive = cache_gradients(
        model, [part.pairs for part in cached if part], params.contrastive_weight
    )
    parts = [
        backward_chunk(model, chunk, part, num_answer_tokens, params.autoregressive_weight)
        for chunk, part in zip(chunks, cached, strict=True)
    ]
    return StepLosses(torch.stack(parts).sum(), contrastive)


@torch.no_grad()
def embed_without_graph(model: Method, chunk: TrainBatch) -> CachedPairs:
    """The first reading of a chunk; its pairs are leaves."""
    before = RandomState.now()
    pairs = embed_pairs(model, chunk, summary_tokens_of(model, chunk))
    return CachedPairs(Pairs(*(side.requires_grad_() for side in pairs)), before)


def cache_gradients(model: Method, parts: Sequence[Pairs], weight: float) -> Tensor:
    """The contrastive loss over all pairs; leaves `weight` times its gradient in them and in the logit scale."""
    if not parts:
        return model.log_logit_scale.new_zeros(())
    loss = global_contrastive_loss(model, Pairs(*map(torch.cat, zip(*parts, strict=True))))
    (weight * loss).backward()
    return loss.detach()


def backward_chunk(
    model: Method,
    chunk: TrainBatch,
    cached: CachedPairs | None,
    num_answer_tokens: Tensor,
    autoregressive_weight: float,
) -> Tensor:
    """The second reading of a chunk and its whole gradient; returns its part of the autoregressive loss."""
    if cached:
        cached.before.restore()
    summary_tokens = summary_tokens_of(model, chunk)
    total = model.log_logit_scale.new_zeros(())
    if cached:
        for side, first in zip(
            embed_pairs(model, chunk, summary_tokens), cached.pairs, strict=True
        ):
            if first.grad is not None:  # there may be no hard negatives
                total = total + (side * first.grad).sum()  # its gradient is the cached one
    autoregressive = autoregressive_part(model, chunk, summary_tokens, num_answer_tokens)
    total = total + autoregressive_weight * autoregressive
    if total.requires_grad:
        total.backward()
    return autoregressive.detach()
