"""What a picture costs: bytes kept, and operations per later question (Fwd2Bot, "Efficiency analysis").

A transformer's forward pass is 2 N operations per token (one multiply, one add per weight), N the weights of its matrix
products: biases, norms, nonlinearities, embeddings, the LM head and the attention scores are left out, as in the paper.
V, K, Q and G are the numbers of image, summary, question and generated tokens.
"""

from typing import NamedTuple

from torch import nn

FLOAT16_BYTES = 2


class ModelSize(NamedTuple):
    """Weights that multiply: of the language model's layers, and of vision tower and connector."""

    language_model: int
    vision: int


def matrix_weights(module: nn.Module) -> int:
    """Number of weights in the linear and convolution layers of `module`, without biases."""
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d))


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
    size: ModelSize, num_tokens: int, num_question_tokens: float, num_generated: float, num_image_tokens: int
) -> float:
    """Per question about an opened picture: N_v V + N_llm (tokens + Q + G); plain LLaVA has tokens = V."""
    return 2 * size.vision * num_image_tokens + stored_question_flops(
        size, num_tokens, num_question_tokens, num_generated
    )
