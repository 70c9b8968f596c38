"""Answers and caption likelihoods of the compared systems.

| system | what stands where the image tokens stood | who decodes |
|---|---|---|
| `compressed` | the stored summary tokens | this project's generation pass, adapter `generation` |
| `uncompressed` | all image tokens | the base model, plain transformers `generate` |
| `average_pooled` | the image tokens, averaged down to as many as there are summary tokens | the same |
| `blind` | nothing, not even a placeholder | the same |

All of them decode greedily, batched with left padding, and read the same prompts.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from components.losses.autoregressive import IGNORE_INDEX
from components.model.adapters import GENERATION
from components.model.backbone import Backbone
from components.model.double_forward import DoubleForward, position_ids
from components.model.generation import answer, end_token_ids, left_pad

COMPRESSED, UNCOMPRESSED, AVERAGE_POOLED, BLIND = "compressed", "uncompressed", "average_pooled", "blind"
SYSTEMS = (COMPRESSED, UNCOMPRESSED, AVERAGE_POOLED, BLIND)


class Visuals(NamedTuple):
    """The visual tokens of some pictures, and which picture each row (a prompt, a conversation) is about."""

    tokens: Tensor | None  # (pictures, n, dim); None: rows have no picture
    pictures: Sequence[int]  # per row, its picture's place in `tokens`

    def of_rows(self, rows: Sequence[int], device: torch.device) -> Tensor | None:
        """(rows, n, dim)"""
        return None if self.tokens is None else self.tokens[[self.pictures[row] for row in rows]].to(device)


class Reader(NamedTuple):
    """A language model that reads visual tokens: the generation pass, or the base model."""

    generate: Callable[[Tensor | None, list[list[int]], int], list[list[int]]]  # visual tokens, prompts, new tokens
    hidden: Callable[[Tensor | None, Tensor, Tensor], Tensor]  # visual tokens, input ids, attention mask
    lm_head: torch.nn.Module
    device: torch.device


def compressed_reader(model: DoubleForward) -> Reader:
    """The generation pass of a trained compressor."""

    def generate(visual_tokens: Tensor | None, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        return answer(model, visual_tokens, prompts, max_new_tokens, GENERATION)

    backbone = model.backbone
    return Reader(generate, model.generation_hidden, backbone.lm_head, backbone.device)


def base_reader(backbone: Backbone) -> Reader:
    """A base model as it comes, without adapters."""

    def generate(visual_tokens: Tensor | None, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        return base_answer(backbone, visual_tokens, prompts, max_new_tokens)

    def hidden(visual_tokens: Tensor | None, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return backbone.language_model(
            inputs_embeds=backbone.embed_chat(input_ids, visual_tokens),
            attention_mask=attention_mask,
            position_ids=position_ids(attention_mask),
            use_cache=False,
        ).last_hidden_state

    return Reader(generate, hidden, backbone.lm_head, backbone.device)


@torch.inference_mode()
def base_answer(
    backbone: Backbone, visual_tokens: Tensor | None, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> list[list[int]]:
    """Greedy answers by transformers' own `generate`, without end tokens; visual_tokens (prompts, n, dim) or None."""
    input_ids, attention_mask = left_pad(prompts, backbone.device)
    ends = end_token_ids(backbone)
    output = backbone.vlm.generate(
        inputs_embeds=backbone.embed_chat(input_ids, visual_tokens),
        attention_mask=attention_mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        eos_token_id=ends,
        pad_token_id=ends[0],
    )
    return [_until(row, ends) for row in output.tolist()]


def answers(
    reader: Reader, visuals: Visuals, prompts: Sequence[list[int]], max_new_tokens: int, batch_size: int
) -> list[list[int]]:
    """One answer per prompt, in their order."""
    found: list[list[int]] = [[] for _ in prompts]
    for rows in batches_of_like_length([len(prompt) for prompt in prompts], batch_size):
        visual = visuals.of_rows(rows, reader.device)
        for row, tokens in zip(
            rows, reader.generate(visual, [prompts[row] for row in rows], max_new_tokens), strict=True
        ):
            found[row] = tokens
    return found


@torch.inference_mode()
def log_likelihoods(
    reader: Reader, visuals: Visuals, conversations: Sequence[tuple[list[int], list[int]]], batch_size: int
) -> list[float]:
    """Mean log-probability (nats) per answer token of each (input_ids, labels)."""
    found = [0.0] * len(conversations)
    for rows in batches_of_like_length([len(input_ids) for input_ids, _ in conversations], batch_size):
        input_ids, attention_mask = left_pad([conversations[row][0] for row in rows], reader.device)
        labels = _left_pad_labels([conversations[row][1] for row in rows], input_ids.shape[1]).to(reader.device)
        visual = visuals.of_rows(rows, reader.device)
        hidden = reader.hidden(visual, input_ids, attention_mask)
        for row, value in zip(rows, _mean_log_probability(hidden, reader.lm_head, labels), strict=True):
            found[row] = value
    return found


def batches_of_like_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches; short rows with short ones, so that little is padded."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _left_pad_labels(labels: Sequence[Sequence[int]], width: int) -> Tensor:
    return torch.tensor([[IGNORE_INDEX] * (width - len(row)) + list(row) for row in labels])


def _mean_log_probability(hidden: Tensor, lm_head: torch.nn.Module, labels: Tensor) -> list[float]:
    """Hidden (batch, tokens, dim), labels (batch, tokens): logits are computed at label positions only."""
    targets = labels[:, 1:]
    is_target = targets != IGNORE_INDEX
    losses = functional.cross_entropy(lm_head(hidden[:, :-1][is_target]).float(), targets[is_target], reduction="none")
    sums = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
    sums.index_add_(0, is_target.nonzero()[:, 0], losses.double())
    return (-sums / is_target.sum(dim=1)).tolist()


def _until(tokens: list[int], ends: list[int]) -> list[int]:
    return tokens[: next((index for index, token in enumerate(tokens) if token in ends), len(tokens))]
