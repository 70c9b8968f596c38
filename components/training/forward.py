"""The two losses of a worker's samples, from one compression of each picture.

The gradient does not depend on how the global batch is spread over workers: the autoregressive loss
is a mean over the labelled tokens of all workers, and the contrastive loss is computed over the
gathered pairs of all workers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from components.losses.autoregressive import IGNORE_INDEX, answer_loss_sum
from components.losses.contrastive import contrastive_loss
from components.methods.fwd2bot import DoubleForward
from components.methods.method import Method
from components.model.families.llava import LlavaBackbone
from components.model.segments import Segment, stack
from components.params import Params
from components.training.collate import TrainBatch
from components.training.distributed import gather_with_gradient, sum_over_workers, world_size


class LossParams(Params):
    """Weights of the two losses (Eq. 4 has 1 and 1); a loss of weight 0 is not computed."""

    autoregressive_weight: float = Field(ge=0)
    contrastive_weight: float = Field(ge=0)


class StepLosses(NamedTuple):
    """Scalars whose mean over workers is the loss of the global batch."""

    autoregressive: Tensor
    contrastive: Tensor

    def weighted(self, params: LossParams) -> Tensor:
        """Eq. (4)."""
        return (
            params.autoregressive_weight * self.autoregressive
            + params.contrastive_weight * self.contrastive
        )


class Pairs(NamedTuple):
    """Vectors to search with, one for each prefix of the summary tokens: (pairs, budgets, dim) each."""

    images: Tensor
    texts: Tensor
    hard_negatives: Tensor  # zeros where a pair has none; (0, budgets, dim) when none are wanted


def step_losses(model: Method, batch: TrainBatch) -> StepLosses:
    """Both losses of this worker's slice, read at once; a group without samples counts 0."""
    summary_tokens = summary_tokens_of(model, batch)
    num_answer_tokens = count_answer_tokens([batch])
    zero = model.log_logit_scale.new_zeros(())
    pairs = embed_pairs(model, batch, summary_tokens) if len(batch.caption_ids) else None
    autoregressive = autoregressive_part(model, batch, summary_tokens, num_answer_tokens)
    return StepLosses(
        autoregressive, zero if pairs is None else global_contrastive_loss(model, pairs)
    )


def summary_tokens_of(model: Method, batch: TrainBatch) -> Tensor | None:
    """The pictures of a batch, compressed: (pictures, summary tokens, dim); None if it has none."""
    if not batch.num_pictures:
        return None
    if not len(batch.vision_features):
        return model.compress_for_training(batch.pictures)
    assert isinstance(model, DoubleForward)  # who alone reads what is cached
    return model.compress_images(image_embeddings_of(model, batch))


def image_embeddings_of(model: Method, batch: TrainBatch) -> Segment:
    """What the language model reads of the pictures of a batch."""
    backbone = model.backbone
    parts = [backbone.encode_images(batch.pictures)] if len(batch.pictures) else []
    if len(batch.vision_features):
        assert isinstance(backbone, LlavaBackbone)
        parts.append(backbone.connect(batch.vision_features))
    return stack(parts)


def count_answer_tokens(batches: Sequence[TrainBatch]) -> Tensor:
    """The labelled tokens of a step over all workers."""
    return sum_over_workers(
        torch.stack([(batch.targets != IGNORE_INDEX).sum() for batch in batches]).sum()
    )


def autoregressive_part(
    model: Method, batch: TrainBatch, summary_tokens: Tensor | None, num_answer_tokens: Tensor
) -> Tensor:
    """Eq. (2): a batch's share of the mean over the labelled tokens of all workers."""
    if not len(batch.conversation_ids):
        return model.log_logit_scale.new_zeros(())
    if not len(batch.conversation_pictures):
        visual_tokens = None
    else:
        assert summary_tokens is not None
        visual_tokens = model.cut(
            tokens_of_rows(model, batch, summary_tokens), batch.conversation_budgets
        )
    hidden = model.generation_hidden(
        visual_tokens,
        batch.conversation_ids,
        batch.conversation_mask,
        batch.conversation_positions,
        batch.predicting,
    )
    loss_sum = answer_loss_sum(hidden, model.backbone.lm_head, batch.targets)
    return loss_sum * world_size() / num_answer_tokens.clamp(min=1)


def tokens_of_rows(model: Method, batch: TrainBatch, summary_tokens: Tensor) -> Tensor:
    """The visual tokens of each conversation that has a picture: (conversations, tokens, dim)."""
    tokens = summary_tokens[batch.conversation_pictures]
    if not model.reads_questions:
        return tokens
    ids = batch.conversation_ids
    places = torch.arange(ids.shape[1], device=ids.device)
    # the first answer token follows on the last of these
    is_asked = places <= batch.predicting[:, :1]
    has_picture = (ids == model.image_token_id).any(1)
    return model.tokens_for_questions(
        tokens, ids[has_picture], model.is_question(ids, is_asked)[has_picture]
    )


def embed_pairs(model: Method, batch: TrainBatch, summary_tokens: Tensor | None) -> Pairs:
    """Both sides of the contrastive group of a batch."""
    texts = prefix_embeddings(
        model, model.compress_texts(batch.caption_ids, batch.caption_mask), batch.budgets
    )
    num_pairs = batch.num_pairs
    # no words: there is none
    hard_negatives = texts[num_pairs:] * batch.caption_mask[num_pairs:].any(1)[:, None, None]
    images = prefix_embeddings(model, first_sides(model, batch, summary_tokens), batch.budgets)
    return Pairs(images, texts[:num_pairs], hard_negatives)


def first_sides(model: Method, batch: TrainBatch, summary_tokens: Tensor | None) -> Tensor:
    """What the captions of a batch belong to, (pairs, summary tokens, dim): pictures, or texts in their place."""
    if len(batch.premise_ids):
        return model.compress_texts(batch.premise_ids, batch.premise_mask)
    assert summary_tokens is not None
    return summary_tokens[batch.caption_pictures]


def prefix_embeddings(model: Method, summary_tokens: Tensor, budgets: Sequence[int]) -> Tensor:
    """What a store of the first summary tokens would be searched with: (rows, budgets, dim)."""
    return torch.stack([model.embedding(summary_tokens[:, :budget]) for budget in budgets], dim=1)


def global_contrastive_loss(model: Method, pairs: Pairs) -> Tensor:
    """Eq. (3) over the pairs of all workers, its mean over the budgets; the same value on each."""
    sides = [gather_with_gradient(side).unbind(1) if len(side) else None for side in pairs]
    by_budget = zip(*(side for side in sides if side), strict=True)
    losses = [
        contrastive_loss(images, texts, model.logit_scale, *negatives)
        for images, texts, *negatives in by_budget
    ]
    return torch.stack(losses).mean()
