"""Memory of a training step: weights, and the activations that wait for the backward pass.

Counted are tensors that autograd saves, each once. Hugging Face's norms compute in float32 and keep
their input so.
"""

from typing import Any, NamedTuple

from components.costs.training_costs import FIRST, KEPT, ModelShape, Pass, Step, model_shape
from components.losses.autoregressive import POSITIONS_PER_CHUNK
from components.model.adapters import AdapterParams

FLOAT32, BFLOAT16 = 4, 2  # bytes of a number
INDEX = 8  # bytes of a position
GATHERED_LAYERS = 2  # of a sharded decoder: the one that is read and the next
OPTIMIZER_NUMBERS = 3  # per trained weight: gradient and the two means of AdamW, float32


class Memory(NamedTuple):
    """The bytes of one worker at the height of a step."""

    base_weights: int  # frozen
    trained: int  # adapters with gradients and the optimizer's means
    activations: int  # of one chunk
    logits: int  # of the positions that the head takes at once, and their gradient


def worker_memory(
    config: Any, adapters: AdapterParams, chunk: Step, number: int, num_shards: int
) -> Memory:
    """Return the memory of a worker, from the configuration of a LLaVA, without dropout's masks.

    `number`: bytes of a number of the frozen base. `num_shards`: workers over which the frozen
    decoder layers are spread (FSDP).
    """
    # Frozen weights: embeddings and head, decoder, vision tower and connector.
    shape = model_shape(config, adapters)

    decoder = shape.num_layers * shape.layer_weights // num_shards
    if num_shards > 1:
        decoder += GATHERED_LAYERS * shape.layer_weights
    vision = config.vision_config
    width = vision.hidden_size
    tower = vision.num_hidden_layers * (4 * width**2 + 2 * width * vision.intermediate_size)
    embeddings, connector = 2 * shape.vocab_size * shape.dim, (width + shape.dim) * shape.dim
    base = decoder + tower + embeddings + connector

    # Trained weights, and the logits that the head takes at once.
    ranks = sum(linear.rank * (linear.inputs + linear.outputs) for linear in shape.linears)
    trained = len(adapters.names) * shape.num_layers * ranks * (1 + OPTIMIZER_NUMBERS)
    positions = min(chunk.num_answer_tokens, POSITIONS_PER_CHUNK)

    return Memory(
        base_weights=base * number,
        trained=trained * FLOAT32,
        activations=activation_bytes(shape, chunk, number),
        logits=positions * shape.vocab_size * (number + 2 * FLOAT32),
    )


def activation_bytes(shape: ModelShape, chunk: Step, number: int) -> int:
    """Count the bytes saved between the forward and the backward pass of a chunk.

    `number`: bytes of a number of the base.
    """
    passes = (chunk.pictures, *chunk.texts, chunk.conversations)
    return sum(pass_bytes(shape, size, number) for size in passes)


def pass_bytes(shape: ModelShape, size: Pass, number: int) -> int:
    """Count the bytes that one pass of the language model saves."""
    # The last layer saves queries, attention and MLP at the kept places only.
    tokens, kept = size.rows * size.tokens, size.rows * size.kept
    incoming, rest = layer_bytes(shape, number)
    layers = (shape.num_layers - 1) * tokens * (incoming + rest) + tokens * incoming + kept * rest

    # Beside the layers, each once for all.
    final_norm = kept * (shape.dim + 1) * FLOAT32
    rotations = 2 * size.rows * (size.tokens + 2 * size.kept) * shape.head_dim * number
    mask = size.rows * (size.tokens + size.kept) * size.tokens * number
    indices = 3 * kept * INDEX
    return layers + final_norm + rotations + mask + indices


def layer_bytes(shape: ModelShape, number: int) -> tuple[int, int]:
    """Count the bytes that one layer saves per token: for keys and values, and for the rest.

    An adapter keeps the input of its layer, shared by layers with the same input: q, k and v; gate
    and up. The input of the output projection is kept by the attention anyway, and the input of
    the norms in float32.
    """
    # An input is kept for the adapters only: frozen weights do not need it.
    linears, rank = {}, {}
    for linear in shape.linears:
        linears[linear.name], rank[linear.name] = linear, linear.rank
    reads_attention = any(rank[name] for name in FIRST)
    reads_mlp = bool(rank["gate_proj"] or rank["up_proj"])
    reads_down = bool(rank["down_proj"])
    kept_ranks = sum(rank[name] for name in KEPT)
    norm = (shape.dim + 1) * FLOAT32

    # Keys and values need every token, also in the last layer.
    other_ranks = sum(rank.values()) - kept_ranks
    numbers = reads_attention * shape.dim + 2 * linears["k_proj"].outputs + other_ranks
    incoming = norm + numbers * number

    # Queries, attention and MLP need the places at which the layer goes on.
    middle = (3 + reads_down) * linears["down_proj"].inputs
    numbers = 2 * linears["q_proj"].outputs + middle + reads_mlp * shape.dim + kept_ranks
    rest = norm + numbers * number + shape.num_heads * FLOAT32
    return incoming, rest
