"""What a picture costs: bytes kept, and operations per later question (Fwd2Bot, "Efficiency analysis").

A transformer's forward pass is 2 N operations per token (one multiply, one add per weight), N the
weights of its matrix products: biases, norms, nonlinearities, embeddings, the LM head and the
attention scores are left out, as in the paper. V, K, Q and G are the numbers of image, summary,
question and generated tokens.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from components.methods.method import Method
from components.model.prepared import PreparedPictures

FLOAT16_BYTES = 2
WEIGHT_PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.convolution)


class ModelSize(NamedTuple):
    """Weights that multiply: of the language model's layers, and of vision tower and connector."""

    language_model: int
    vision: int


def stored_bytes(num_tokens: int, dim: int) -> int:
    """Bytes of one picture kept as `num_tokens` vectors of 2-byte floats."""
    return num_tokens * dim * FLOAT16_BYTES


def compression_flops(size: ModelSize, num_image_tokens: int, num_summary_tokens: int) -> int:
    """Once per picture: N_v V + N_llm (V + K), in operations."""
    return 2 * (
        size.vision * num_image_tokens
        + size.language_model * (num_image_tokens + num_summary_tokens)
    )


def stored_question_flops(
    size: ModelSize, num_tokens: int, num_question_tokens: float, num_generated: float
) -> float:
    """Per question about stored tokens: N_llm (K + Q + G), in operations."""
    return 2 * size.language_model * (num_tokens + num_question_tokens + num_generated)


def picture_question_flops(
    size: ModelSize, num_image_tokens: int, num_question_tokens: float, num_generated: float
) -> float:
    """Per question of plain LLaVA, which opens the picture again: N_v V + N_llm (V + Q + G), in operations."""
    encoding = 2 * size.vision * num_image_tokens
    return encoding + stored_question_flops(
        size, num_image_tokens, num_question_tokens, num_generated
    )


class Workload(NamedTuple):
    """What is read and written per question."""

    num_image_tokens: int  # V
    num_summary_tokens: int  # K
    dim: int  # numbers per token
    # Q, mean tokens of a prompt without visual ones, per system
    question_tokens: Mapping[str, float]
    answer_tokens: Mapping[str, float]  # G, mean new tokens per system


class MethodCosts(NamedTuple):
    """What one method costs, in operations."""

    # once; where nothing is stored, again for every question, which then counts it
    per_picture: float
    # what every later question costs before it is read; None: it gives no answers
    per_question: float | None
    per_prompt_token: float
    per_new_token: float
    is_stored: bool  # so that the picture is not needed again


def method_costs(model: Method, size: ModelSize, picture: PreparedPictures) -> MethodCosts:
    """Those of a method: counted while it reads a picture, and what it says of a question, which is a sum of parts."""
    per_picture, is_stored = counted_flops(model, picture), not model.why_not_stored
    if model.why_no_answers:
        return MethodCosts(per_picture, None, 0, 0, is_stored)
    start, asked, said = (
        model.question_flops(size.language_model, *numbers) for numbers in ((0, 0), (1, 0), (0, 1))
    )
    return MethodCosts(per_picture, start, asked - start, said - start, is_stored)


@torch.inference_mode()
def counted_flops(model: Method, pictures: PreparedPictures) -> int:
    """Operations of the products with weights while a method reads pictures."""
    with FlopCounterMode(display=False) as counter:
        model.compress_pictures(pictures)
    counts = counter.get_flop_counts()["Global"]
    return sum(counts.get(product, 0) for product in WEIGHT_PRODUCTS)


def cost_table(size: ModelSize, load: Workload, method: MethodCosts) -> dict[str, Any]:
    """Bytes and operations of the compared systems, each {system: number}.

    `compressed` and `average_pooled` are stored as K vectors and answer without the picture;
    `uncompressed` is plain LLaVA, which opens the picture for every question (its bytes are what
    storing all image tokens would take).
    """
    visual = {
        "compressed": load.num_summary_tokens,
        "uncompressed": load.num_image_tokens,
        "average_pooled": load.num_summary_tokens,
        "blind": 0,
    }
    flops_per_picture = {
        "compressed": round(method.per_picture) if method.is_stored else 0,
        "uncompressed": 0,
        "average_pooled": 2 * size.vision * load.num_image_tokens,
        "blind": 0,
    }
    stored = {system: stored_bytes(count, load.dim) for system, count in visual.items()}
    asked = {
        system: question_flops(system, size, load, method, visual[system])
        for system in load.answer_tokens
    }
    return {
        "parameters": size._asdict(),
        "visual_tokens": {system: visual[system] for system in asked},
        "bytes_per_picture": {
            system: None if system == "compressed" and not method.is_stored else stored[system]
            for system in asked
        },
        "flops_per_picture": {system: flops_per_picture[system] for system in asked},
        "flops_per_question": {
            system: flops if flops is None else round(flops) for system, flops in asked.items()
        },
        "question_tokens": {
            system: round(count, 6) for system, count in sorted(load.question_tokens.items())
        },
        "answer_tokens": {
            system: round(count, 6) for system, count in sorted(load.answer_tokens.items())
        },
    }


def question_flops(
    system: str, size: ModelSize, load: Workload, method: MethodCosts, num_tokens: int
) -> float | None:
    """Operations of a later question to a system that reads `num_tokens` visual tokens; None if it gives no answers."""
    asked, said = load.question_tokens[system], load.answer_tokens[system]
    if system == "compressed":
        if method.per_question is None:
            return None
        return method.per_question + method.per_prompt_token * asked + method.per_new_token * said
    if system == "uncompressed":
        return picture_question_flops(size, num_tokens, asked, said)
    return stored_question_flops(size, num_tokens, asked, said)
