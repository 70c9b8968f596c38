"""What a picture costs: bytes kept, and operations per later question (Fwd2Bot, "Efficiency analysis").

A transformer's forward pass is 2 N operations per token (one multiply, one add per weight), N the weights of its matrix
products: biases, norms, nonlinearities, embeddings, the LM head and the attention scores are left out, as in the paper.
V, K, Q and G are the numbers of image, summary, question and generated tokens.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

FLOAT16_BYTES = 2


class ModelSize(NamedTuple):
    """Weights that multiply: of the language model's layers, and of vision tower and connector."""

    language_model: int
    vision: int


def stored_bytes(num_tokens: int, dim: int) -> int:
    """Bytes of one picture kept as `num_tokens` vectors of 2-byte floats."""
    return num_tokens * dim * FLOAT16_BYTES


def compression_flops(size: ModelSize, num_image_tokens: int, num_summary_tokens: int) -> int:
    """Once per picture: N_v V + N_llm (V + K), in operations."""
    return 2 * (size.vision * num_image_tokens + size.language_model * (num_image_tokens + num_summary_tokens))


def stored_question_flops(size: ModelSize, num_tokens: int, num_question_tokens: float, num_generated: float) -> float:
    """Per question about stored tokens: N_llm (K + Q + G), in operations."""
    return 2 * size.language_model * (num_tokens + num_question_tokens + num_generated)


def picture_question_flops(
    size: ModelSize, num_image_tokens: int, num_question_tokens: float, num_generated: float
) -> float:
    """Per question of plain LLaVA, which opens the picture again: N_v V + N_llm (V + Q + G), in operations."""
    encoding = 2 * size.vision * num_image_tokens
    return encoding + stored_question_flops(size, num_image_tokens, num_question_tokens, num_generated)


class Workload(NamedTuple):
    """What is read and written per question."""

    num_image_tokens: int  # V
    num_summary_tokens: int  # K
    dim: int  # numbers per token
    question_tokens: float  # Q, mean tokens of a prompt without visual ones
    answer_tokens: Mapping[str, float]  # G, mean new tokens per system


def cost_table(size: ModelSize, load: Workload) -> dict[str, Any]:
    """Bytes and operations of the compared systems, each {system: number}.

    `compressed` and `average_pooled` are stored as K vectors and answer without the picture; `uncompressed` is plain
    LLaVA, which opens the picture for every question (its bytes are what storing all image tokens would take).
    """
    visual = {
        "compressed": load.num_summary_tokens,
        "uncompressed": load.num_image_tokens,
        "average_pooled": load.num_summary_tokens,
        "blind": 0,
    }
    per_question = {
        system: stored_question_flops(size, num_tokens, load.question_tokens, load.answer_tokens[system])
        for system, num_tokens in visual.items()
    }
    per_question["uncompressed"] = picture_question_flops(
        size, load.num_image_tokens, load.question_tokens, load.answer_tokens["uncompressed"]
    )
    return {
        "parameters": size._asdict(),
        "visual_tokens": visual,
        "bytes_per_picture": {system: stored_bytes(count, load.dim) for system, count in visual.items()},
        "flops_per_picture": {
            "compressed": compression_flops(size, load.num_image_tokens, load.num_summary_tokens),
            "uncompressed": 0,
            "average_pooled": 2 * size.vision * load.num_image_tokens,
            "blind": 0,
        },
        "flops_per_question": {system: round(flops) for system, flops in per_question.items()},
        "question_tokens": round(load.question_tokens, 6),
        "answer_tokens": {system: round(count, 6) for system, count in sorted(load.answer_tokens.items())},
    }
