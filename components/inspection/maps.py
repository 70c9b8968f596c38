"""Maps of attention to publish: means over queries, over steps of an answer, over layers."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from components.inspection.attention_weights import (
    AnswerAttention,
    answer_attention,
    query_attention,
)
from components.inspection.inspection_files import numbers
from components.inspection.parts import AbsentError
from components.inspection.views import as_read, grid_side, on_grid
from components.methods.method import Method
from components.model.backbone import Backbone
from components.model.chat import encode_prompt
from components.model.generation import base_answer


def compression_maps(model: Method, images: Sequence[Image.Image]) -> dict[str, Any]:
    """Map the attention of the summary queries on each picture, by layer and by query.

    Raises AbsentError for a compressor without summary queries, or without a grid of image tokens.
    """
    side, pictures = grid_side(model.backbone), []
    for image in images:
        weights = on_grid(query_attention(model, model.backbone.prepare([image])), side)
        pictures.append({"layers": numbers(weights.mean(1)), "queries": numbers(weights.mean(0))})
    return {"side": side, "pictures": pictures}


def generation_maps(
    model: Method, tokens: Tensor, question: str, max_new_tokens: int
) -> dict[str, Any]:
    """Map the attention of an answer on the stored tokens of each picture, by layer and by step.

    tokens: (pictures, summary tokens, dim). Raises AbsentError for a method that gives no answers.
    """
    if model.why_no_answers:
        raise AbsentError(model.why_no_answers)

    prompt = encode_prompt(model.backbone.chat, question, tokens.shape[1])
    pictures = []
    for row in tokens.to(model.backbone.device):
        answer = answer_from_tokens(model, row, prompt, max_new_tokens)
        words = words_of(model.backbone.tokenizer, answer.tokens, answer.weights.shape[1])
        layers, steps = numbers(answer.weights.mean(1)), numbers(answer.weights.mean(0))
        pictures.append({"layers": layers, "steps": steps, "words": words})
    return {"pictures": pictures}


def base_maps(
    backbone: Backbone, images: Sequence[Image.Image], question: str, max_new_tokens: int
) -> dict[str, Any]:
    """Map the attention of the base model's answer on each picture, by layer, with the answer.

    Raises AbsentError without a grid of image tokens.
    """
    side, pictures = grid_side(backbone), []

    for image in images:
        answer = answer_from_picture(backbone, image, question, max_new_tokens)
        caption = backbone.tokenizer.decode(answer.tokens, skip_special_tokens=True).strip()
        layers = numbers(on_grid(answer.weights, side).mean(1))
        pictures.append({"layers": layers, "caption": caption})
    return {"side": side, "pictures": pictures}


def answer_from_tokens(
    model: Method, tokens: Tensor, prompt: list[int], max_new_tokens: int
) -> AnswerAttention:
    """Answer from stored tokens (summary tokens, dim), with the attention on them."""
    backbone = model.backbone
    return answer_attention(
        backbone.language_model,
        prompt,
        backbone.image_token_id,
        lambda: model.answer(tokens[None], [prompt], max_new_tokens)[0],
    )


@torch.inference_mode()
def answer_from_picture(
    backbone: Backbone, image: Image.Image, question: str, max_new_tokens: int
) -> AnswerAttention:
    """Answer from a picture with the base model, with the attention on all its image tokens."""
    read = backbone.encode_images(backbone.prepare([image]))
    prompt = encode_prompt(backbone.chat, question, read.lengths[0])
    return answer_attention(
        backbone.language_model,
        prompt,
        backbone.image_token_id,
        lambda: base_answer(backbone, read, [prompt], max_new_tokens)[0],
    )


def words_of(tokenizer: Any, tokens: Sequence[int], num_steps: int) -> list[str]:
    """Return the text of each step's token, and an empty one where the answer ends."""
    return [tokenizer.decode([token]) for token in tokens] + [""] * (num_steps - len(tokens))


def seen_pictures(backbone: Backbone, images: Sequence[Image.Image]) -> list[Image.Image]:
    """Return the pictures that maps are drawn over, as the model reads them.

    None where image tokens have no places.
    """
    try:
        grid_side(backbone)
    except AbsentError:
        return []
    return [as_read(backbone, backbone.prepare([image])) for image in images]
