"""What compressing, keeping, searching and asking a corpus costs, before anything is paid for.

Operations follow from the shapes; time is operations by the rate that a GPU reaches, which must be
measured (`benchmarks/`), not read from a data sheet.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from components.costs.training_costs import ModelShape, Pass, forward_flops, model_shape
from components.model.adapters import AdapterParams
from components.model.families.llava import num_image_tokens

SECONDS_PER_HOUR, HOURS_PER_DAY = 3600, 24
FLOAT32_BYTES = 4
CODE_FACTOR_BYTES = 2 * FLOAT32_BYTES


class Corpus(NamedTuple):
    """What there is, and what is asked."""

    num_pictures: float
    num_summary_tokens: int
    prompt_tokens: int  # of BOS and the summarisation prompt
    question_tokens: int  # of a question without the picture's tokens
    answer_tokens: int
    rows_per_shard: int


class Machines(NamedTuple):
    """What it runs on."""

    num_gpus: int
    flops: float  # per second and GPU, as measured
    price: float  # per GPU and hour


class Effort(NamedTuple):
    """One job."""

    flops: float
    gpu_hours: float
    days: float  # on all GPUs
    cost: float


class Plan(NamedTuple):
    """All that is printed."""

    flops_per_picture: int
    flops_per_question: int
    flops_per_question_with_picture: int  # of the model that opens the picture each time
    compression: Effort
    question_each: Effort  # one question about every picture, from the tokens
    question_each_with_picture: Effort
    stored_bytes: dict[str, int]
    # by kind of index: what a query reads whole, so that it should be in memory
    index_memory_bytes: dict[str, int]
    index_disk_bytes: dict[str, int]
    num_files: int


def make_plan(
    config: Any, corpus: Corpus, machines: Machines, token_bytes: Mapping[str, int]
) -> Plan:
    """From the configuration of a LLaVA; `token_bytes`: of one summary token, per codec."""
    shape = merged_shape(config)
    compression = compression_flops(config, shape, corpus)
    with_tokens = answer_flops(shape, corpus, corpus.num_summary_tokens)
    with_picture = encoding_flops(shape) + answer_flops(shape, corpus, num_image_tokens(config))
    num_pictures = round(corpus.num_pictures)
    vectors, codes = FLOAT32_BYTES * shape.dim * num_pictures, code_bytes(shape.dim) * num_pictures
    return Plan(
        flops_per_picture=compression,
        flops_per_question=with_tokens,
        flops_per_question_with_picture=with_picture,
        compression=effort(compression * num_pictures, machines),
        question_each=effort(with_tokens * num_pictures, machines),
        question_each_with_picture=effort(with_picture * num_pictures, machines),
        stored_bytes={
            codec: size * corpus.num_summary_tokens * num_pictures
            for codec, size in token_bytes.items()
        },
        index_memory_bytes={"exact": vectors, "approximate": codes},
        index_disk_bytes={"exact": vectors, "approximate": vectors + codes},
        num_files=-(-num_pictures // corpus.rows_per_shard),
    )


def code_bytes(dim: int) -> int:
    """Of one embedding in an approximate index: a bit per number, filled up to a power of two, and two factors."""
    return 2 ** math.ceil(math.log2(dim)) // 8 + CODE_FACTOR_BYTES


def merged_shape(config: Any) -> ModelShape:
    """With the adapters merged into the weights, as for compressing and answering."""
    unread = AdapterParams(sharing="none", rank=1, alpha=1, dropout=0.0, targets=("q_proj",))
    shape = model_shape(config, unread)
    return shape._replace(linears=tuple(linear._replace(rank=0) for linear in shape.linears))


def encoding_flops(shape: ModelShape) -> int:
    """A picture through vision tower and connector."""
    return shape.tower_flops + shape.connector_flops


def compression_flops(config: Any, shape: ModelShape, corpus: Corpus) -> int:
    """A picture through vision tower, connector and the compression pass; attention counted whole."""
    tokens = corpus.prompt_tokens + num_image_tokens(config) + corpus.num_summary_tokens
    return encoding_flops(shape) + forward_flops(shape, Pass(1, tokens, corpus.num_summary_tokens))


def answer_flops(shape: ModelShape, corpus: Corpus, num_visual_tokens: int) -> int:
    """A question and its answer, with a KV cache; the head once per new token."""
    prompt = num_visual_tokens + corpus.question_tokens
    total = forward_flops(shape, Pass(1, prompt, 1))
    weights = sum(linear.inputs * linear.outputs for linear in shape.linears)
    for length in range(prompt + 1, prompt + corpus.answer_tokens):
        total += shape.num_layers * (2 * weights + 4 * length * shape.num_heads * shape.head_dim)
    return total + 2 * corpus.answer_tokens * shape.dim * shape.vocab_size


def effort(flops: float, machines: Machines) -> Effort:
    """Operations as hours, days and money."""
    hours = flops / machines.flops / SECONDS_PER_HOUR
    return Effort(flops, hours, hours / machines.num_gpus / HOURS_PER_DAY, hours * machines.price)
