"""Systems under evaluation: their answers, and how likely captions are to them.

| system | what stands where the image tokens stood | who decodes |
|---|---|---|
| `compressed` | the stored summary tokens | the generation pass, adapter `generation` |
| `uncompressed` | all image tokens | the base model, as transformers' `generate` would |
| `average_pooled` | the image tokens, averaged to as many as there are summary tokens | the same |
| `downsampled` | the image tokens of a smaller picture, at most as many | the same |
| `blind` | nothing, not even a placeholder | the same |

All of them decode greedily, batched with left padding, and read the same prompts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from components.losses.autoregressive import IGNORE_INDEX
from components.methods.method import Method
from components.model.backbone import Backbone
from components.model.chat import ChatFormat
from components.model.generation import base_answer, left_pad
from components.model.loading import load_without_weights
from components.model.segments import Segment

COMPRESSED = "compressed"
UNCOMPRESSED = "uncompressed"
AVERAGE_POOLED = "average_pooled"
DOWNSAMPLED = "downsampled"
BLIND = "blind"
SYSTEMS = (COMPRESSED, UNCOMPRESSED, AVERAGE_POOLED, DOWNSAMPLED, BLIND)

Value = TypeVar("Value")


class Visuals(NamedTuple):
    """Visual tokens of some pictures, and the picture of each row (a prompt, a conversation)."""

    tokens: Segment | None  # one row per picture; None: there are no pictures
    pictures: Sequence[int]  # per row, its picture's place in `tokens`

    def of_rows(self, rows: Sequence[int], device: torch.device) -> Segment | None:
        """Return the visual tokens of some rows, one picture each."""
        if self.tokens is None:
            return None
        return self.tokens.rows(pick(self.pictures, rows)).to(device)


class Reader(NamedTuple):
    """Language model that reads visual tokens: the generation pass, or the base model."""

    # visual tokens, prompts, new tokens
    generate: Callable[[Segment | None, list[list[int]], int], list[list[int]]]
    # visual tokens, input ids, attention mask
    hidden: Callable[[Segment | None, Tensor, Tensor], Tensor]
    lm_head: torch.nn.Module
    device: torch.device


def compressed_reader(model: Method) -> Reader:
    """Return the generation pass of a trained compressor."""

    def generate(
        visuals: Segment | None, prompts: list[list[int]], max_new_tokens: int
    ) -> list[list[int]]:
        encoded = None if visuals is None else visuals.embeddings
        return model.answer(encoded, prompts, max_new_tokens)

    def hidden(visuals: Segment | None, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        encoded = None if visuals is None else visuals.embeddings
        return model.generation_hidden(encoded, input_ids, attention_mask)

    backbone = model.backbone
    return Reader(generate, hidden, backbone.lm_head, backbone.device)


def base_reader(backbone: Backbone) -> Reader:
    """Return a base model without adapters."""

    def generate(
        pictures: Segment | None, prompts: list[list[int]], max_new_tokens: int
    ) -> list[list[int]]:
        return base_answer(backbone, pictures, prompts, max_new_tokens)

    def hidden(pictures: Segment | None, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        chats = backbone.chat_segment(input_ids, attention_mask, pictures)
        arguments = backbone.arguments(chats)
        return backbone.language_model(**arguments, use_cache=False).last_hidden_state

    return Reader(generate, hidden, backbone.lm_head, backbone.device)


class EvaluatedSystem(NamedTuple):
    """System under evaluation, with its visual tokens of some pictures."""

    name: str
    reader: Reader
    chat: ChatFormat
    image_ids: Sequence[str]
    visual_tokens: Segment | None  # one row per picture; None for the blind
    num_placeholders: int | None  # of a picture in a chat; None: as many as it has visual tokens

    @property
    def lengths(self) -> dict[str, int]:
        """The number of placeholders of each picture."""
        if self.visual_tokens is None:
            return dict.fromkeys(self.image_ids, 0)
        if self.num_placeholders is not None:
            return dict.fromkeys(self.image_ids, self.num_placeholders)
        return dict(zip(self.image_ids, self.visual_tokens.lengths, strict=True))

    def visuals(self, image_ids: Iterable[str]) -> Visuals:
        """Return one row of visual tokens per entry of `image_ids`."""
        place_of = dict(zip(self.image_ids, range(len(self.image_ids)), strict=True))
        places = [place_of[image_id] for image_id in image_ids]
        return Visuals(self.visual_tokens, places)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of new token ids."""
        return str(self.chat.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


def compressed_system(
    model: Method, image_ids: Sequence[str], visual_tokens: Segment
) -> EvaluatedSystem:
    """Return a trained compressor with its stored tokens of pictures, one row each."""
    return EvaluatedSystem(
        COMPRESSED,
        compressed_reader(model),
        model.backbone.chat,
        image_ids,
        visual_tokens,
        model.num_placeholders,
    )


def base_system(
    name: str, backbone: Backbone, image_ids: Sequence[str], visual_tokens: Segment | None
) -> EvaluatedSystem:
    """Return a system of the base model with the visual tokens that it reads, one row each."""
    return EvaluatedSystem(
        name, base_reader(backbone), backbone.chat, image_ids, visual_tokens, None
    )


def check_downsampling(base: str, revision: str | None, num_tokens: int) -> None:
    """Check that a base model reads small pictures as `num_tokens` tokens or fewer.

    Raises ValueError, before any weight is read.
    """
    backbone = load_without_weights(base, revision, pad_to_square=False)
    if why := backbone.why_not_shrunk(num_tokens):
        raise ValueError(
            f"evaluate.references: downsampled: {base} cannot read a picture that is shrunk to "
            f"{num_tokens} tokens: {why}; leave it out, and there is no hard subset"
        )


def generate_answers(
    reader: Reader,
    visuals: Visuals,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    batch_size: int,
) -> list[list[int]]:
    """Answer every prompt, in their order: new token ids."""
    answers: list[list[int]] = [[] for _ in prompts]
    for rows in batches_of_like_length(list(map(len, prompts)), batch_size):
        visual = visuals.of_rows(rows, reader.device)
        found = reader.generate(visual, pick(prompts, rows), max_new_tokens)
        for row, tokens in zip(rows, found, strict=True):
            answers[row] = tokens
    return answers


@torch.inference_mode()
def log_likelihoods(
    reader: Reader,
    visuals: Visuals,
    conversations: Sequence[tuple[list[int], list[int]]],
    batch_size: int,
) -> list[float]:
    """Return the mean log-probability (nats) per answer token of each (input_ids, labels)."""
    likelihoods = [0.0] * len(conversations)
    lengths = [len(input_ids) for input_ids, _ in conversations]
    for rows in batches_of_like_length(lengths, batch_size):
        # Labels are padded like the ids, so that both stay aligned.
        ids_of_rows, labels_of_rows = zip(*pick(conversations, rows), strict=True)
        input_ids, attention_mask = left_pad(ids_of_rows, reader.device)
        labels = _left_pad_labels(labels_of_rows, input_ids.shape[1])

        hidden = reader.hidden(visuals.of_rows(rows, reader.device), input_ids, attention_mask)
        found = _mean_log_probability(hidden, reader.lm_head, labels.to(reader.device))
        for row, value in zip(rows, found, strict=True):
            likelihoods[row] = value
    return likelihoods


def batches_of_like_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Yield row numbers in batches; short rows with short ones, so that little is padded."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def pick(values: Sequence[Value], rows: Iterable[int]) -> list[Value]:
    """Return the values of some rows."""
    return [values[row] for row in rows]


def _left_pad_labels(labels: Sequence[Sequence[int]], width: int) -> Tensor:
    return torch.tensor([[IGNORE_INDEX] * (width - len(row)) + list(row) for row in labels])


def _mean_log_probability(hidden: Tensor, lm_head: torch.nn.Module, labels: Tensor) -> list[float]:
    """Average over the labels of each row; hidden (batch, tokens, dim), labels (batch, tokens)."""
    # Logits at the label positions only: those of all tokens would not fit into memory.
    targets = labels[:, 1:]
    is_target = targets != IGNORE_INDEX
    losses = functional.cross_entropy(
        lm_head(hidden[:, :-1][is_target]).float(), targets[is_target], reduction="none"
    )

    # One mean per row, in float64.
    sums = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
    sums.index_add_(0, is_target.nonzero()[:, 0], losses.double())
    return (-sums / is_target.sum(dim=1)).tolist()
