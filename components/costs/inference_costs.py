"""Costs of a picture: bytes kept, and operations per later question (Fwd2Bot, supplement).

"Efficiency analysis" there: a transformer's forward pass is 2 N operations per token (one multiply,
one add per weight), N the weights of its matrix products. Biases, norms, nonlinearities,
embeddings, the LM head and the attention scores are left out, as in the paper. V, K, Q and G are
the numbers of image, summary, question and generated tokens.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from components.costs.flop_counter import flop_counter
from components.methods.method import Method
from components.model.prepared import PreparedPictures

FLOAT16_BYTES = 2
WEIGHT_PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.convolution)


class ModelSize(NamedTuple):
    """Weights that multiply, in the language model's layers and in vision tower and connector."""

    language_model: int
    vision: int


def stored_bytes(num_tokens: int, dim: int) -> int:
    """Return the bytes of one picture kept as `num_tokens` vectors of 2-byte floats: 2 K d."""
    return num_tokens * dim * FLOAT16_BYTES


def compression_flops(size: ModelSize, num_image_tokens: int, num_summary_tokens: int) -> int:
    """Count the operations once per picture: 2 (N_v V + N_llm (V + K))."""
    return 2 * (
        size.vision * num_image_tokens
        + size.language_model * (num_image_tokens + num_summary_tokens)
    )


def stored_question_flops(
    size: ModelSize, num_tokens: int, num_question_tokens: float, num_generated: float
) -> float:
    """Count the operations of a question about stored tokens: 2 N_llm (K + Q + G)."""
    return 2 * size.language_model * (num_tokens + num_question_tokens + num_generated)


def picture_question_flops(
    size: ModelSize, num_image_tokens: int, num_question_tokens: float, num_generated: float
) -> float:
    """Count the operations of a question to plain LLaVA: 2 (N_v V + N_llm (V + Q + G)).

    It opens the picture again for every question.
    """
    num_tokens = num_image_tokens + num_question_tokens + num_generated
    return 2 * (size.vision * num_image_tokens + size.language_model * num_tokens)


class Workload(NamedTuple):
    """The tokens read and written per question."""

    num_image_tokens: int  # V
    num_summary_tokens: int  # K
    num_downsampled_tokens: int  # of a picture that was shrunk to at most K
    dim: int  # numbers per token
    question_tokens: Mapping[str, float]  # Q, mean tokens of a prompt without visual ones
    answer_tokens: Mapping[str, float]  # G, mean new tokens; both by system


class MethodCosts(NamedTuple):
    """The costs of one method, in operations."""

    # once; where nothing is stored, again for every question, which then counts it
    per_picture: float
    # of every later question, before it is read; None: the method gives no answers
    per_question: float | None
    per_prompt_token: float
    per_new_token: float
    is_stored: bool  # so that the picture is not needed again


def method_costs(model: Method, size: ModelSize, picture: PreparedPictures) -> MethodCosts:
    """Count a method's operations while it reads a picture, and take a question's from its formula.

    That formula (`Method.question_flops`) is linear in the tokens of prompt and answer.
    """
    per_picture, is_stored = counted_flops(model, picture), not model.why_not_stored
    if model.why_no_answers:
        return MethodCosts(per_picture, None, 0, 0, is_stored)

    # Three points of the formula say all of it.
    start = model.question_flops(size.language_model, 0, 0)
    per_prompt_token = model.question_flops(size.language_model, 1, 0) - start
    per_new_token = model.question_flops(size.language_model, 0, 1) - start
    return MethodCosts(per_picture, start, per_prompt_token, per_new_token, is_stored)


@torch.inference_mode()
def counted_flops(model: Method, pictures: PreparedPictures) -> int:
    """Count the operations of products with weights while a method reads pictures."""
    with flop_counter() as counter:
        model.compress_pictures(pictures)
    counts = counter.get_flop_counts()["Global"]
    return sum(counts.get(product, 0) for product in WEIGHT_PRODUCTS)


def cost_table(size: ModelSize, load: Workload, method: MethodCosts) -> dict[str, Any]:
    """Tabulate bytes and operations of the compared systems, each {system: number}.

    `compressed`, `average_pooled` and `downsampled` are stored as vectors and answer without the
    picture; `uncompressed` is plain LLaVA, which opens the picture for every question (its bytes
    are what storing all image tokens would take).
    """
    visual = {
        "compressed": load.num_summary_tokens,
        "uncompressed": load.num_image_tokens,
        "average_pooled": load.num_summary_tokens,
        "downsampled": load.num_downsampled_tokens,
        "blind": 0,
    }
    flops_per_picture = {
        "compressed": round(method.per_picture) if method.is_stored else 0,
        "uncompressed": 0,
        "average_pooled": 2 * size.vision * load.num_image_tokens,
        "downsampled": 2 * size.vision * load.num_downsampled_tokens,
        "blind": 0,
    }

    # Only the systems that were asked.
    table: dict[str, dict[str, int | None]] = {
        "visual_tokens": {},
        "bytes_per_picture": {},
        "flops_per_picture": {},
        "flops_per_question": {},
    }
    for system in load.answer_tokens:
        table["visual_tokens"][system] = visual[system]
        table["flops_per_picture"][system] = flops_per_picture[system]

        is_kept = system != "compressed" or method.is_stored
        stored = stored_bytes(visual[system], load.dim)
        table["bytes_per_picture"][system] = stored if is_kept else None

        flops = question_flops(system, size, load, method, visual[system])
        table["flops_per_question"][system] = None if flops is None else round(flops)

    return {
        "parameters": size._asdict(),
        **table,
        "question_tokens": rounded(load.question_tokens),
        "answer_tokens": rounded(load.answer_tokens),
    }


def rounded(means: Mapping[str, float]) -> dict[str, float]:
    """Round means to 6 digits, by system in alphabetical order."""
    return {system: round(mean, 6) for system, mean in sorted(means.items())}


def question_flops(
    system: str, size: ModelSize, load: Workload, method: MethodCosts, num_tokens: int
) -> float | None:
    """Count the operations of a later question to a system; None if it gives no answers.

    `num_tokens`: visual tokens that the system reads.
    """
    question, answer = load.question_tokens[system], load.answer_tokens[system]

    # Systems without a compressor cost what the paper's formulas say.
    if system == "uncompressed":
        return picture_question_flops(size, num_tokens, question, answer)
    if system != "compressed":
        return stored_question_flops(size, num_tokens, question, answer)

    # A method may do work of its own for each question.
    if method.per_question is None:
        return None
    reading = method.per_question + method.per_prompt_token * question
    return reading + method.per_new_token * answer
