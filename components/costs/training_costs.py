"""Operations of a training step, as PyTorch counts them: one multiply and one add are two.

Matrix products only: norms, activations and the optimizer are left out. Frozen weights need the
gradient of their input and no more; LoRA matrices need both. Attention is counted in full, also
where it is causal.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from components.model.adapters import AdapterParams
from components.model.families.llava import num_image_tokens, read_layers

# Linear layers that the last decoder layer runs at the kept places only.
KEPT = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FIRST = ("q_proj", "k_proj", "v_proj")  # read the input of a decoder layer
LAST = "down_proj"


class Linear(NamedTuple):
    """A linear layer of a decoder layer; `rank`: of its adapter, 0 without one."""

    name: str
    inputs: int
    outputs: int
    rank: int

    def forward(self, tokens: int) -> int:
        """Count the operations of its output, with the adapter's."""
        return 2 * tokens * (self.inputs * self.outputs + self.rank * (self.inputs + self.outputs))

    def backward(self, tokens: int, wants_input: bool) -> int:
        """Count the operations of the gradients of both LoRA matrices and, if wanted, the input."""
        lora = 2 * tokens * self.rank * (self.inputs + 2 * self.outputs)
        return lora + wants_input * 2 * tokens * self.inputs * (self.outputs + self.rank)


class ModelShape(NamedTuple):
    """The sizes that decide the cost of a step."""

    linears: tuple[Linear, ...]  # of one decoder layer
    num_layers: int
    num_heads: int
    head_dim: int
    dim: int
    vocab_size: int
    tower_flops: int  # of the vision tower, per picture
    connector_flops: int  # per picture

    @property
    def layer_weights(self) -> int:
        """Weights of the linear layers of one decoder layer, without adapters."""
        return sum(linear.inputs * linear.outputs for linear in self.linears)


class Pass(NamedTuple):
    """One forward pass of the language model over padded rows; `kept` places of each are read."""

    rows: int
    tokens: int
    kept: int


class Step(NamedTuple):
    """The shapes of one chunk of a step."""

    pictures: Pass  # rows are pictures
    texts: tuple[Pass, ...]  # captions, phrases, hard negatives
    conversations: Pass
    num_encoded: int  # pictures that the vision tower reads; features of others are cached
    num_answer_tokens: int
    num_pairs: int
    num_budgets: int  # prefixes of summary tokens for which the pairs are compared


def model_shape(config: Any, adapters: AdapterParams | None) -> ModelShape:
    """Return the sizes of a LLaVA, from a `LlavaConfig` around a Llama-like decoder.

    `adapters`: None where they are merged into the weights, as for compressing and answering.
    """
    text = config.text_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    queries, keys = text.num_attention_heads * head_dim, text.num_key_value_heads * head_dim

    # Inputs and outputs of the linear layers of one decoder layer.
    sizes = {
        "q_proj": (text.hidden_size, queries),
        "k_proj": (text.hidden_size, keys),
        "v_proj": (text.hidden_size, keys),
        "o_proj": (queries, text.hidden_size),
        "gate_proj": (text.hidden_size, text.intermediate_size),
        "up_proj": (text.hidden_size, text.intermediate_size),
        "down_proj": (text.intermediate_size, text.hidden_size),
    }
    linears = []
    for name, (inputs, outputs) in sizes.items():
        rank = adapters.rank if adapters and name in adapters.targets else 0
        linears.append(Linear(name, inputs, outputs, rank))

    return ModelShape(
        linears=tuple(linears),
        num_layers=text.num_hidden_layers,
        num_heads=text.num_attention_heads,
        head_dim=head_dim,
        dim=text.hidden_size,
        vocab_size=text.vocab_size,
        tower_flops=tower_flops(config),
        connector_flops=connector_flops(config),
    )


def tower_flops(config: Any) -> int:
    """Count the operations of one picture through a CLIP tower, up to the highest layer read."""
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    tokens, width = patches + 1, vision.hidden_size

    # The layers that are read may be counted from the end.
    num_states = vision.num_hidden_layers + 1
    num_layers = max(layer % num_states for layer in read_layers(config))

    convolution = 2 * patches * vision.num_channels * vision.patch_size**2 * width
    weights = 4 * width**2 + 2 * width * vision.intermediate_size
    attention = 4 * tokens**2 * width
    return convolution + num_layers * (2 * tokens * weights + attention)


def connector_flops(config: Any) -> int:
    """Count the operations of one picture through a two-layer connector."""
    dim = config.text_config.hidden_size
    width = config.vision_config.hidden_size * len(read_layers(config))
    return 2 * num_image_tokens(config) * (width * dim + dim**2)


def forward_flops(shape: ModelShape, size: Pass) -> int:
    """Count the operations of the language model without its head."""
    others = (shape.num_layers - 1) * layer_flops(shape, size, is_last=False)
    return others + layer_flops(shape, size, is_last=True)


def backward_flops(shape: ModelShape, size: Pass, wants_input: bool) -> int:
    """Count the operations of the language model's backward pass.

    `wants_input`: whether anything before the first layer is trained.
    """
    total = 0
    for number in range(shape.num_layers):
        is_last = number == shape.num_layers - 1
        for linear, tokens in tokens_by_linear(shape, size, is_last):
            # The gradient of the first layer's input is asked for only if something there learns.
            is_asked = wants_input or number > 0 or linear.name not in FIRST
            total += linear.backward(tokens, is_asked)

        # Both products of attention have two inputs that want a gradient.
        total += 2 * attention_flops(shape, size, is_last)
    return total


def layer_flops(shape: ModelShape, size: Pass, is_last: bool) -> int:
    """Count the operations of the forward pass of one layer."""
    total = attention_flops(shape, size, is_last)
    for linear, tokens in tokens_by_linear(shape, size, is_last):
        total += linear.forward(tokens)
    return total


def tokens_by_linear(shape: ModelShape, size: Pass, is_last: bool) -> list[tuple[Linear, int]]:
    """Return the linear parts of a layer with the number of tokens that each reads."""
    narrow = KEPT if is_last else ()
    parts = []
    for linear in shape.linears:
        tokens = size.kept if linear.name in narrow else size.tokens
        parts.append((linear, size.rows * tokens))
    return parts


def attention_flops(shape: ModelShape, size: Pass, is_last: bool) -> int:
    """Count the operations of queries times keys, and of weights times values."""
    queries = size.kept if is_last else size.tokens
    return 4 * size.rows * queries * size.tokens * shape.num_heads * shape.head_dim


def recomputed_flops(shape: ModelShape, size: Pass) -> int:
    """Count the operations that checkpointing runs again: all layers but the last one.

    PyTorch stops at the last tensor that was kept, so that the last product of a layer is left out.
    """
    last = next(linear for linear in shape.linears if linear.name == LAST)
    skipped = 2 * size.rows * size.tokens * last.rank * last.outputs
    return (shape.num_layers - 1) * (layer_flops(shape, size, is_last=False) - skipped)


def step_flops(shape: ModelShape, chunks: Sequence[Step], checkpointing: bool) -> int:
    """Count the operations of the forward and backward passes of a step of one worker.

    More than one chunk means gradient caching (GradCache, arXiv 2101.06983): the pairs are read
    once more.
    """
    total = num_pairs = num_texts = 0
    for chunk in chunks:
        total += chunk_flops(shape, chunk, checkpointing)
        if len(chunks) > 1 and chunk.num_pairs:
            total += reading_flops(shape, chunk)

        num_pairs += chunk.num_pairs * chunk.num_budgets
        num_texts += sum(size.rows for size in chunk.texts)

    # Similarities of all pairs with all texts of the step, and their gradient.
    return total + 6 * num_pairs * num_texts * shape.dim


def reading_flops(shape: ModelShape, chunk: Step) -> int:
    """Count the operations of embedding the pairs of a chunk, without a graph."""
    passes = (chunk.pictures, *chunk.texts)
    return vision_flops(shape, chunk) + sum(forward_flops(shape, size) for size in passes)


def vision_flops(shape: ModelShape, chunk: Step) -> int:
    """Count the operations of encoding the pictures of a chunk."""
    return chunk.num_encoded * shape.tower_flops + chunk.pictures.rows * shape.connector_flops


def chunk_flops(shape: ModelShape, chunk: Step, checkpointing: bool) -> int:
    """Count the operations of both losses of a chunk and their gradient, without similarities."""
    # The head is frozen: its output, and the gradient of its input.
    total = vision_flops(shape, chunk) + 4 * chunk.num_answer_tokens * shape.dim * shape.vocab_size

    for size in (chunk.pictures, *chunk.texts, chunk.conversations):
        # With checkpointing Hugging Face lets the embeddings ask for a gradient, needed or not.
        wants_input = checkpointing or size is not chunk.conversations or chunk.pictures.rows > 0
        total += forward_flops(shape, size) + backward_flops(shape, size, wants_input)
        if checkpointing:
            total += recomputed_flops(shape, size)
    return total
