"""The double-forward step as one would write it from Hugging Face's parts, to be measured against.

A batch of conversations and a batch of pairs, each read for itself; all rows padded to the longest;
every layer and all logits at every position; no picture shared, no chunks. The losses are those of
the project's own step.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from components.losses.autoregressive import IGNORE_INDEX
from components.methods.fwd2bot import DoubleForward
from components.model.adapters import COMPRESSION, GENERATION
from components.model.prepared import PreparedPictures
from components.training.collate import (
    PADDING_ID,
    TextParams,
    TrainSample,
    encode_chat,
    encode_texts,
    pad,
    single_questions,
)
from components.training.forward import LossParams
from components.training.optimizer import Optimizer, OptimizerParams, trained_parameters
from components.training.sampler import StepSamples


class PlainBatch(NamedTuple):
    """Padded captions and padded rows, one per question (turns apart) or conversation."""

    chat_pixels: PreparedPictures  # of each conversation with a picture
    chat_pictures: Tensor  # (rows with a picture,): their places in chat_pixels
    chat_ids: Tensor  # (rows, tokens)
    chat_mask: Tensor  # (rows, tokens)
    labels: Tensor  # (rows, tokens)
    pair_pixels: PreparedPictures
    caption_ids: Tensor  # (pairs, tokens)
    caption_mask: Tensor  # (pairs, tokens)

    def to(self, device: torch.device) -> "PlainBatch":
        return PlainBatch._make(tensor.to(device) for tensor in self)


def plain_batch(
    samples: Mapping[int, TrainSample], groups: StepSamples, model: DoubleForward, texts: TextParams
) -> PlainBatch:
    """Make the batch of a step; conversations are cut at the same token as in training."""
    backbone, chat = model.backbone, model.backbone.chat

    # chats, each with the place of its picture
    rows, pictures, images = [], [], []
    for index in groups.autoregressive:
        sample = samples[index]
        if isinstance(sample.image, Image.Image):
            images.append(sample.image)
        parts = list(single_questions(sample)) if texts.turns == "apart" else [sample.conversation]
        for turns in parts:
            rows.append(encode_chat(sample, turns, chat, model.num_summary_tokens))
            pictures += [len(images) - 1] * (sample.image is not None)
    longest = texts.max_conversation_tokens
    chat_ids, chat_mask = pad([ids[:longest] for ids, _ in rows], PADDING_ID)
    labels, _ = pad([labels[:longest] for _, labels in rows], IGNORE_INDEX)

    # pairs, whose pictures are read once more
    pairs = [samples[index] for index in groups.contrastive]
    captions = [sample.caption for sample in pairs]
    caption_ids, caption_mask, _ = encode_texts(chat.tokenizer, captions, texts.max_caption_tokens)
    pair_images = [sample.image for sample in pairs if isinstance(sample.image, Image.Image)]
    return PlainBatch(
        backbone.prepare(images),
        torch.tensor(pictures),
        chat_ids,
        chat_mask,
        labels,
        backbone.prepare(pair_images),
        caption_ids,
        caption_mask,
    )


def plain_losses(model: DoubleForward, batch: PlainBatch) -> tuple[Tensor, Tensor]:
    """Compute both losses of the batch."""
    backbone = model.backbone

    # conversations: logits at every position
    summary_tokens = plain_compress(model, backbone.encode_images(batch.chat_pixels).embeddings)
    embeddings = backbone.embed_chat(batch.chat_ids, summary_tokens[batch.chat_pictures])
    with model.adapters.use(GENERATION):
        output = backbone.vlm(
            inputs_embeds=embeddings, attention_mask=batch.chat_mask, labels=batch.labels
        )

    # pairs: every picture compressed again
    images = plain_compress(model, backbone.encode_images(batch.pair_pixels).embeddings)
    texts = plain_compress(model, backbone.embed(batch.caption_ids), batch.caption_mask)
    vectors = [F.normalize(tokens.float().mean(1), dim=-1) for tokens in (images, texts)]
    logits = model.logit_scale * vectors[0] @ vectors[1].T
    targets = torch.arange(len(logits), device=logits.device)
    both_ways = F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)
    return output.loss, both_ways / 2


def plain_compress(model: DoubleForward, embeddings: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compress with every layer at every position: (rows, tokens, dim) -> (rows, kept, dim)."""
    rows = len(embeddings)
    bos = model.backbone.embed(model.bos_ids).expand(rows, -1, -1)
    prompt = model.backbone.embed(model.prompt_ids).expand(rows, -1, -1)
    queries = model.queries(rows).to(embeddings.dtype)
    inputs = torch.cat([bos, embeddings, prompt, queries], dim=1)
    if mask is not None:
        num_behind = prompt.shape[1] + queries.shape[1]
        mask = torch.cat([mask.new_ones(rows, 1), mask, mask.new_ones(rows, num_behind)], dim=1)
    positions = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
    with model.adapters.use(COMPRESSION):
        hidden = model.backbone.language_model(
            inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
    return model.params.summary_scale * hidden[:, -model.num_summary_tokens :]


def plain_step(
    model: DoubleForward,
    optimizer: Optimizer,
    batch: PlainBatch,
    losses: LossParams,
    settings: OptimizerParams,
) -> dict[str, float]:
    """Make one update; return the losses."""
    model.zero_grad(set_to_none=True)
    autoregressive, contrastive = plain_losses(model, batch)
    loss = losses.autoregressive_weight * autoregressive + losses.contrastive_weight * contrastive
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained_parameters(model).values(), settings.max_gradient_norm)
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate
    optimizer.step()
    model.clamp_logit_scale()
    return {"autoregressive_loss": float(autoregressive), "contrastive_loss": float(contrastive)}
