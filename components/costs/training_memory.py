"""What a training step keeps in memory: weights, and the activations that wait for the backward pass.

Counted are tensors that autograd saves, each once. Hugging Face's norms compute in float32 and keep
what they read so.
"""

from typing import Any, NamedTuple

from components.costs.training_costs import KEPT, ModelShape, Pass, Step, model_shape
from components.losses.autoregressive import POSITIONS_PER_CHUNK
from components.model.adapters import AdapterParams

FLOAT32, BFLOAT16 = 4, 2  # bytes of a number
INDEX = 8  # bytes
READERS = {
    "attention": ("q_proj", "k_proj", "v_proj"),
    "mlp": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
GATHERED_LAYERS = 2  # of a sharded decoder: the one that is read and the next
OPTIMIZER_NUMBERS = 3  # per trained weight: gradient and two running means, float32


class Memory(NamedTuple):
    """Bytes of one worker at the height of a step."""

    base_weights: int  # frozen
    trained: int  # adapters with gradients and the optimizer's means
    activations: int  # of one chunk
    logits: int  # of the positions that the head takes at once, and their gradient


def worker_memory(
    config: Any, adapters: AdapterParams, chunk: Step, number: int, num_shards: int
) -> Memory:
    """What a worker needs, from the configuration of a LLaVA; dropout's masks come on top.

    `num_shards`: over how many workers the frozen decoder layers are spread; 1: they are not.
    """
    shape = model_shape(config, adapters)
    layer = sum(linear.inputs * linear.outputs for linear in shape.linears)
    decoder = shape.num_layers * layer // num_shards + (num_shards > 1) * GATHERED_LAYERS * layer
    vision = config.vision_config
    tower = vision.num_hidden_layers * (
        4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    )
    base = (
        decoder
        + tower
        + 2 * shape.vocab_size * shape.dim
        + vision.hidden_size * shape.dim
        + shape.dim**2
    )
    lora = shape.num_layers * sum(
        linear.rank * (linear.inputs + linear.outputs) for linear in shape.linears
    )
    positions = min(chunk.num_answer_tokens, POSITIONS_PER_CHUNK)
    return Memory(
        base_weights=base * number,
        trained=len(adapters.names) * lora * (1 + OPTIMIZER_NUMBERS) * FLOAT32,
        activations=activation_bytes(shape, chunk, number),
        logits=positions * shape.vocab_size * (number + 2 * FLOAT32),
    )


def activation_bytes(shape: ModelShape, chunk: Step, number: int) -> int:
    """What is saved between the forward and the backward pass of a chunk; `number`: bytes of a number of the base."""
    return sum(pass_bytes(shape, size, number) for size in chunk[:3])


def pass_bytes(shape: ModelShape, size: Pass, number: int) -> int:
    """What one pass of the language model saves."""
    tokens, kept = size.rows * size.tokens, size.rows * size.kept
    whole = (shape.num_layers - 1) * tokens * sum(layer_bytes(shape, number))
    incoming, rest = layer_bytes(shape, number)
    final_norm = kept * (shape.dim + 1) * FLOAT32
    rotations = 2 * size.rows * (size.tokens + 2 * size.kept) * shape.head_dim * number
    mask = size.rows * (size.tokens + size.kept) * size.tokens * number
    indices = 3 * kept * INDEX
    return whole + tokens * incoming + kept * rest + final_norm + rotations + mask + indices


def layer_bytes(shape: ModelShape, number: int) -> tuple[int, int]:
    """Per token of one layer: what keys and values need of every token, and the rest.

    An adapter keeps what its layer reads, and layers that read the same share it: q, k and v; gate
    and up. What the output projection reads is kept by the attention anyway, and the input of the
    norms in float32.
    """
    width = {linear.name: linear for linear in shape.linears}
    is_read = {name: any(width[part].rank for part in parts) for name, parts in READERS.items()}
    norm = (shape.dim + 1) * FLOAT32
    ranks = {name: linear.rank * number for name, linear in width.items()}
    incoming = norm + (is_read["attention"] * shape.dim + 2 * width["k_proj"].outputs) * number
    incoming += sum(ranks[name] for name in width if name not in KEPT)
    middle = (3 + is_read["down"]) * width["down_proj"].inputs
    kept = 2 * width["q_proj"].outputs + middle + is_read["mlp"] * shape.dim
    rest = (
        norm
        + kept * number
        + shape.num_heads * FLOAT32
        + sum(ranks[name] for name in width if name in KEPT)
    )
    return incoming, rest
