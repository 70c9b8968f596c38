"""Costs of compressing, keeping, searching and asking a corpus, before anything is paid for.

Operations follow from the shapes; time is operations by the rate that a GPU reaches, which must be
measured (`benchmarks/`), not read from a data sheet.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from components.costs.training_costs import ModelShape, Pass, forward_flops, model_shape
from components.model.families.llava import num_image_tokens

SECONDS_PER_HOUR, HOURS_PER_DAY = 3600, 24
FLOAT32_BYTES = 4
CODE_FACTOR_BYTES = 2 * FLOAT32_BYTES  # of the two factors beside the bits of an embedding


class Corpus(NamedTuple):
    """The pictures, and the questions about them."""

    num_pictures: float
    num_summary_tokens: int
    prompt_tokens: int  # BOS and the summarisation prompt
    question_tokens: int  # a question without the picture's tokens
    answer_tokens: int
    rows_per_shard: int


class Machines(NamedTuple):
    """The GPUs that do the work."""

    num_gpus: int
    flops: float  # per second and GPU, as measured
    price: float  # per GPU and hour


class Effort(NamedTuple):
    """The cost of one job."""

    flops: float
    gpu_hours: float
    days: float  # on all GPUs
    cost: float


class Plan(NamedTuple):
    """The costs that are printed."""

    flops_per_picture: int
    flops_per_question: int
    flops_per_question_with_picture: int  # for the model that opens the picture each time
    compression: Effort
    question_each: Effort  # one question about every picture, from the tokens
    question_each_with_picture: Effort
    stored_bytes: dict[str, int]
    index_memory_bytes: dict[str, int]  # by kind of index; every query reads all of it
    index_disk_bytes: dict[str, int]
    num_files: int


def make_plan(
    config: Any, corpus: Corpus, machines: Machines, token_bytes: Mapping[str, int]
) -> Plan:
    """Plan a corpus for a LLaVA, from its configuration.

    `token_bytes`: bytes of one summary token, by codec.
    """
    # Operations of one picture and of one question.
    shape = model_shape(config, None)
    compression = picture_flops(config, shape, corpus)
    with_tokens = answer_flops(shape, corpus, corpus.num_summary_tokens)
    with_picture = encoding_flops(shape) + answer_flops(shape, corpus, num_image_tokens(config))

    # Bytes of all pictures; the approximate index keeps the vectors on disk, to score exactly.
    num_pictures = round(corpus.num_pictures)
    num_tokens = corpus.num_summary_tokens * num_pictures
    stored = {codec: size * num_tokens for codec, size in token_bytes.items()}
    vectors, codes = FLOAT32_BYTES * shape.dim * num_pictures, code_bytes(shape.dim) * num_pictures

    return Plan(
        flops_per_picture=compression,
        flops_per_question=with_tokens,
        flops_per_question_with_picture=with_picture,
        compression=effort(compression * num_pictures, machines),
        question_each=effort(with_tokens * num_pictures, machines),
        question_each_with_picture=effort(with_picture * num_pictures, machines),
        stored_bytes=stored,
        index_memory_bytes={"exact": vectors, "approximate": codes},
        index_disk_bytes={"exact": vectors, "approximate": vectors + codes},
        num_files=math.ceil(num_pictures / corpus.rows_per_shard),
    )


def code_bytes(dim: int) -> int:
    """Return the bytes of one embedding in an approximate index.

    A bit per number, filled up to a power of two, and two factors.
    """
    return 2 ** math.ceil(math.log2(dim)) // 8 + CODE_FACTOR_BYTES


def encoding_flops(shape: ModelShape) -> int:
    """Count the operations of a picture through vision tower and connector."""
    return shape.tower_flops + shape.connector_flops


def picture_flops(config: Any, shape: ModelShape, corpus: Corpus) -> int:
    """Count the operations of a picture through vision tower, connector and compression pass."""
    tokens = corpus.prompt_tokens + num_image_tokens(config) + corpus.num_summary_tokens
    return encoding_flops(shape) + forward_flops(shape, Pass(1, tokens, corpus.num_summary_tokens))


def answer_flops(shape: ModelShape, corpus: Corpus, num_visual_tokens: int) -> int:
    """Count the operations of a question and its answer, with a KV cache."""
    prompt, width = num_visual_tokens + corpus.question_tokens, shape.num_heads * shape.head_dim
    total = forward_flops(shape, Pass(1, prompt, 1))

    # Each new token but the last is read alone and attends to all before it.
    for length in range(prompt + 1, prompt + corpus.answer_tokens):
        total += shape.num_layers * (2 * shape.layer_weights + 4 * length * width)

    # The head predicts every new token.
    return total + 2 * corpus.answer_tokens * shape.dim * shape.vocab_size


def effort(flops: float, machines: Machines) -> Effort:
    """Return operations as hours, days and money."""
    hours = flops / machines.flops / SECONDS_PER_HOUR
    return Effort(flops, hours, hours / machines.num_gpus / HOURS_PER_DAY, hours * machines.price)
