"""The losses of a worker's samples, from one compression of each picture.

The gradient does not depend on how the global batch is spread over workers: the autoregressive loss
is a mean over the labelled tokens of all workers, and the contrastive losses are computed over the
gathered pairs of all workers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from components.losses.autoregressive import IGNORE_INDEX, answer_loss_sum
from components.losses.contrastive import contrastive_loss, max_similarity_loss
from components.losses.late_interaction import directions
from components.methods.fwd2bot import DoubleForward
from components.methods.method import Method
from components.model.families.llava import LlavaBackbone
from components.model.segments import Segment, stack
from components.params import Params
from components.training.collate import NO_TEXT, Texts, TrainBatch
from components.training.distributed import (
    gather,
    gather_with_gradient,
    sum_over_workers,
    world_size,
)


class LossParams(Params):
    """Weights of the losses (Eq. 4 has 1, 1 and no third); a loss of weight 0 is not computed."""

    autoregressive_weight: float = Field(ge=0)
    contrastive_weight: float = Field(ge=0)
    # of the contrastive loss by MaxSim of the summary tokens, beside that by their mean
    max_similarity_weight: float = Field(ge=0)


class StepLosses(NamedTuple):
    """Scalars whose mean over workers is the loss of the global batch."""

    autoregressive: Tensor
    contrastive: Tensor
    max_similarity: Tensor

    def weighted(self, params: LossParams) -> Tensor:
        """Eq. (4), and the third loss if there is one."""
        return (
            params.autoregressive_weight * self.autoregressive
            + params.contrastive_weight * self.contrastive
            + params.max_similarity_weight * self.max_similarity
        )

    def named(self, params: LossParams) -> dict[str, Tensor]:
        """Return what is logged: the weighted sum and each loss, a third one only if wanted."""
        found = {
            "loss": self.weighted(params),
            "autoregressive_loss": self.autoregressive,
            "contrastive_loss": self.contrastive,
        }
        if params.max_similarity_weight:
            found["max_similarity_loss"] = self.max_similarity
        return found


class Pairs(NamedTuple):
    """Vectors that pairs are told apart by, as of `vectors_of`; a text that is missing is zeros."""

    images: Tensor  # (pairs, vectors, dim)
    texts: Tensor  # (pairs, texts, vectors, dim): the caption, then phrases
    hard_negatives: Tensor  # (pairs, negatives, vectors, dim)


def step_losses(model: Method, batch: TrainBatch, params: LossParams) -> StepLosses:
    """Compute the losses of this worker's slice at once; a group without samples counts 0."""
    # pass 1: each picture is compressed once, for all losses
    summary_tokens = summary_tokens_of(model, batch)
    num_answer_tokens = count_answer_tokens([batch])
    pairs = embed_pairs(model, batch, summary_tokens, params) if batch.num_pairs else None

    # pass 2: conversations read the summary tokens in place of pictures
    autoregressive = autoregressive_part(model, batch, summary_tokens, num_answer_tokens)
    if pairs is None:
        return StepLosses(autoregressive, *model.log_logit_scale.new_zeros(2))
    return StepLosses(autoregressive, *pair_losses(model, pairs, [batch], params))


def summary_tokens_of(model: Method, batch: TrainBatch) -> Tensor | None:
    """Compress the pictures of a batch: (pictures, summary tokens, dim); None if it has none."""
    if not batch.num_pictures:
        return None
    if not len(batch.vision_features):
        return model.compress_for_training(batch.pictures)
    assert isinstance(model, DoubleForward)  # no other method reads stored features
    return model.compress_images(image_embeddings_of(model, batch))


def image_embeddings_of(model: Method, batch: TrainBatch) -> Segment:
    """Encode the pictures of a batch as the language model reads them, before compression."""
    backbone = model.backbone
    parts = [backbone.encode_images(batch.pictures)] if len(batch.pictures) else []
    if len(batch.vision_features):
        assert isinstance(backbone, LlavaBackbone)
        parts.append(backbone.connect(batch.vision_features))
    return stack(parts)


def count_answer_tokens(batches: Sequence[TrainBatch]) -> Tensor:
    """Count the labelled tokens of a step over all workers."""
    counts = [(batch.targets != IGNORE_INDEX).sum() for batch in batches]
    return sum_over_workers(torch.stack(counts).sum())


def autoregressive_part(
    model: Method, batch: TrainBatch, summary_tokens: Tensor | None, num_answer_tokens: Tensor
) -> Tensor:
    """Compute Eq. (2): a batch's share of the mean over the labelled tokens of all workers."""
    if not len(batch.conversation_ids):
        return model.log_logit_scale.new_zeros(())

    # the prefix that each conversation reads, one picture after the other: (all kept, dim)
    visual_tokens = None
    if len(batch.conversation_pictures):
        assert summary_tokens is not None
        tokens = tokens_of_rows(model, batch, summary_tokens)
        visual_tokens = model.cut(tokens, batch.conversation_budgets)

    # hidden states where an answer token is predicted, and logits there alone
    hidden = model.generation_hidden(
        visual_tokens,
        batch.conversation_ids,
        batch.conversation_mask,
        batch.conversation_positions,
        batch.predicting,
    )
    loss_sum = answer_loss_sum(hidden, model.backbone.lm_head, batch.targets)

    # times the workers, since gradients are averaged over them
    return loss_sum * world_size() / num_answer_tokens.clamp(min=1)


def tokens_of_rows(model: Method, batch: TrainBatch, summary_tokens: Tensor) -> Tensor:
    """Return the tokens of each conversation with a picture: (conversations, tokens, dim)."""
    tokens = summary_tokens[batch.conversation_pictures]
    if not model.reads_questions:
        return tokens

    # the question ends where the first answer token is predicted
    ids = batch.conversation_ids
    places = torch.arange(ids.shape[1], device=ids.device)
    is_asked = places <= batch.predicting[:, :1]
    is_question = model.is_question(ids, is_asked)
    has_picture = (ids == model.image_token_id).any(1)
    return model.tokens_for_questions(tokens, ids[has_picture], is_question[has_picture])


def embed_pairs(
    model: Method, batch: TrainBatch, summary_tokens: Tensor | None, params: LossParams
) -> Pairs:
    """Embed both sides of the contrastive group of a batch."""
    # texts of one kind at a time: captions are longer than phrases
    captions = embed_texts(model, batch, batch.captions, params)
    texts = torch.cat([captions, embed_texts(model, batch, batch.phrases, params)], dim=1)
    hard_negatives = embed_texts(model, batch, batch.hard_negatives, params)

    # pictures, or texts in their place
    if len(batch.premises):
        images = embed_texts(model, batch, batch.premises, params)[:, 0]
    else:
        assert summary_tokens is not None
        tokens = summary_tokens[batch.caption_pictures]
        images = vectors_of(model, tokens, batch.budgets, params)
    return Pairs(images, texts, hard_negatives)


def embed_texts(model: Method, batch: TrainBatch, texts: Texts, params: LossParams) -> Tensor:
    """Embed texts of a batch, some of each pair: (pairs, texts, vectors, dim)."""
    num_vectors = len(batch.budgets)
    if params.max_similarity_weight:
        num_vectors += model.num_summary_tokens
    shape = (batch.num_pairs, len(texts) // batch.num_pairs, num_vectors, model.dim)
    if not len(texts):
        return model.log_logit_scale.new_zeros(shape)
    tokens = model.compress_texts(texts.ids, texts.mask)
    vectors = vectors_of(model, tokens, batch.budgets, params)

    # one without tokens becomes zeros
    exists = texts.mask.any(1)
    return (vectors * exists[:, None, None]).view(*shape[:3], -1)


def vectors_of(
    model: Method, summary_tokens: Tensor, budgets: Sequence[int], params: LossParams
) -> Tensor:
    """Make the vectors that rows of tokens are told apart by: (rows, vectors, dim).

    First those of the first tokens by which a store of so many is searched, one per budget; then,
    for MaxSim, each token.
    """
    means = [model.embedding(summary_tokens[:, :budget]) for budget in budgets]
    vectors = torch.stack(means, dim=1)
    if not params.max_similarity_weight:
        return vectors
    return torch.cat([vectors, directions(summary_tokens)], dim=1)


def pair_losses(
    model: Method, pairs: Pairs, batches: Sequence[TrainBatch], params: LossParams
) -> tuple[Tensor, Tensor]:
    """Compute Eq. (3) over the pairs of all workers by the mean of the tokens, and by MaxSim.

    Each is a mean over the budgets. `batches` are those that the pairs are from. The values are the
    same on each worker; a loss that is not wanted is 0.
    """
    num_texts = pairs.texts.shape[1]
    is_true, is_true_negative = what_is_true(batches).tensor_split([num_texts], dim=2)

    # (world pairs, …, vectors, dim); nothing is not sent
    images, texts = gather_with_gradient(pairs.images), gather_with_gradient(pairs.texts)
    negatives = pairs.hard_negatives.new_zeros(len(images), *pairs.hard_negatives.shape[1:])
    if pairs.hard_negatives.numel():
        negatives = gather_with_gradient(pairs.hard_negatives)
    sides, budgets = (images, texts, negatives), batches[0].budgets

    # the mean of each prefix: (world pairs, …, dim)
    by_mean = []
    means = [side[..., : len(budgets), :].unbind(-2) for side in sides]
    for image, text, negative in zip(*means, strict=True):
        scale = model.logit_scale
        by_mean.append(contrastive_loss(image, text, scale, negative, is_true, is_true_negative))
    contrastive = torch.stack(by_mean).mean()
    if not params.max_similarity_weight:
        return contrastive, contrastive.new_zeros(())

    # all tokens of each prefix, of pictures and texts alike: (world pairs, …, tokens, dim)
    by_tokens = []
    for budget in budgets:
        vectors = slice(len(budgets), len(budgets) + budget)
        image, text, negative = (side[..., vectors, :] for side in sides)
        scale = model.logit_scale
        by_tokens.append(
            max_similarity_loss(image, text, scale, negative, is_true, is_true_negative)
        )
    return contrastive, torch.stack(by_tokens).mean()


def what_is_true(batches: Sequence[TrainBatch]) -> Tensor:
    """Tell which texts of any worker hold for the picture of which pair.

    A text holds for a picture if it is its caption or one of its phrases, in this row or, but for
    hard negatives, in another row about the same picture. Returns (world pairs, world pairs, texts
    per pair) bool; the texts of a pair are its caption, phrases and hard negatives.
    """
    # (world pairs, texts per pair)
    of_batches = []
    for batch in batches:
        kinds = [batch.captions, batch.phrases, batch.hard_negatives]
        by_pair = [kind.keys.view(batch.num_pairs, -1) for kind in kinds if len(kind)]
        of_batches.append(torch.cat(by_pair, dim=1))
    keys = gather(torch.cat(of_batches))
    pictures = gather(torch.cat([batch.picture_keys for batch in batches]))
    num_true = 1 + len(batches[0].phrases) // batches[0].num_pairs  # texts of a pair that are true

    # one known text of every picture at a time
    rows = []
    for batch in batches:
        is_known = torch.zeros(batch.num_pairs, *keys.shape, dtype=torch.uint8, device=keys.device)
        is_same = (batch.picture_keys[:, None] == pictures) & (pictures != NO_TEXT)
        is_known[..., :num_true] = is_same[..., None]
        for known in batch.known_keys.T:
            is_known |= known[:, None, None] == keys
        rows.append(is_known)
    return gather(torch.cat(rows)).bool()
