"""What a training step costs: operations, counted as PyTorch counts them (one multiply and one add are two).

Matrix products only: norms, activations and the optimizer are left out. Frozen weights want the
gradient of their input and no more; LoRA matrices want both. Attention is counted whole, also where
it is causal.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from components.model.adapters import AdapterParams
from components.model.families.llava import num_image_tokens

# in the last layer at the kept places only
KEPT = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FIRST = ("q_proj", "k_proj", "v_proj")  # read what comes into the layer
LAST = "down_proj"


class Linear(NamedTuple):
    """A linear layer of a decoder layer; `rank` is that of its adapter, 0 without one."""

    name: str
    inputs: int
    outputs: int
    rank: int

    def forward(self, tokens: int) -> int:
        return 2 * tokens * (self.inputs * self.outputs + self.rank * (self.inputs + self.outputs))

    def backward(self, tokens: int, wants_input: bool) -> int:
        """The gradient of both LoRA matrices and, unless nobody wants it, of the input."""
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


class Pass(NamedTuple):
    """One forward pass of the language model over padded rows, of which `kept` places each are read."""

    rows: int
    tokens: int
    kept: int


class Step(NamedTuple):
    """The shapes of one chunk of a step."""

    pictures: Pass  # rows are pictures
    captions: Pass  # hard negatives included
    conversations: Pass
    num_encoded: int  # pictures that the vision tower reads; the features of the others are known
    num_answer_tokens: int
    num_pairs: int
    num_budgets: int  # prefixes by which the pairs are told apart


def model_shape(config: Any, adapters: AdapterParams) -> ModelShape:
    """The sizes of a LLaVA, from its configuration (Hugging Face's `LlavaConfig` around a Llama-like decoder)."""
    text = config.text_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    queries, keys = text.num_attention_heads * head_dim, text.num_key_value_heads * head_dim
    sizes = {
        "q_proj": (text.hidden_size, queries),
        "k_proj": (text.hidden_size, keys),
        "v_proj": (text.hidden_size, keys),
        "o_proj": (queries, text.hidden_size),
        "gate_proj": (text.hidden_size, text.intermediate_size),
        "up_proj": (text.hidden_size, text.intermediate_size),
        "down_proj": (text.intermediate_size, text.hidden_size),
    }
    return ModelShape(
        linears=tuple(
            Linear(name, *size, adapters.rank * (name in adapters.targets))
            for name, size in sizes.items()
        ),
        num_layers=text.num_hidden_layers,
        num_heads=text.num_attention_heads,
        head_dim=head_dim,
        dim=text.hidden_size,
        vocab_size=text.vocab_size,
        tower_flops=tower_flops(config),
        connector_flops=connector_flops(config),
    )


def tower_flops(config: Any) -> int:
    """Operations of one picture through a CLIP tower, up to the highest layer that is read."""
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    tokens, width = patches + 1, vision.hidden_size
    read = config.vision_feature_layer
    num_layers = max(
        layer % (vision.num_hidden_layers + 1)
        for layer in ([read] if isinstance(read, int) else read)
    )
    convolution = 2 * patches * vision.num_channels * vision.patch_size**2 * width
    layer = (
        2 * tokens * (4 * width**2 + 2 * width * vision.intermediate_size) + 4 * tokens**2 * width
    )
    return convolution + num_layers * layer


def connector_flops(config: Any) -> int:
    """Operations of one picture through a two-layer connector."""
    text, read = config.text_config, config.vision_feature_layer
    width = config.vision_config.hidden_size * (1 if isinstance(read, int) else len(read))
    return 2 * num_image_tokens(config) * (width * text.hidden_size + text.hidden_size**2)


def forward_flops(shape: ModelShape, size: Pass) -> int:
    """Operations of the language model without its head."""
    return sum(layer_flops(shape, size, last) for last in layers(shape))


def backward_flops(shape: ModelShape, size: Pass, wants_input: bool) -> int:
    """Operations of its backward pass; `wants_input`: whether anything before the first layer is trained."""
    total = 0
    for number, last in enumerate(layers(shape)):
        for linear, tokens in work(shape, size, last):
            total += linear.backward(tokens, wants_input or number > 0 or linear.name not in FIRST)
        total += 2 * attention_flops(shape, size, last)
    return total


def layers(shape: ModelShape) -> list[bool]:
    """For each layer whether it is the last."""
    return [False] * (shape.num_layers - 1) + [True]


def layer_flops(shape: ModelShape, size: Pass, last: bool) -> int:
    """The forward pass of one layer."""
    linear = sum(linear.forward(tokens) for linear, tokens in work(shape, size, last))
    return linear + attention_flops(shape, size, last)


def work(shape: ModelShape, size: Pass, last: bool) -> list[tuple[Linear, int]]:
    """The linear parts of a layer with the number of tokens that each sees."""
    whole, kept = size.rows * size.tokens, size.rows * size.kept
    return [(linear, kept if last and linear.name in KEPT else whole) for linear in shape.linears]


def attention_flops(shape: ModelShape, size: Pass, last: bool) -> int:
    """Queries times keys, and weights times values."""
    queries = size.kept if last else size.tokens
    return 4 * size.rows * queries * size.tokens * shape.num_heads * shape.head_dim


def recomputed_flops(shape: ModelShape, size: Pass) -> int:
    """What checkpointing runs again: all layers but the last, each up to the last product whose inputs were kept."""
    skipped = sum(
        2 * tokens * part.rank * part.outputs
        for part, tokens in work(shape, size, False)
        if part.name == LAST
    )
    return (shape.num_layers - 1) * (layer_flops(shape, size, last=False) - skipped)


def step_flops(shape: ModelShape, chunks: Sequence[Step], checkpointing: bool) -> int:
    """Operations of the forward and backward passes of a step of one worker.

    More than one chunk means gradient caching: the pairs are read once more.
    """
    total = sum(chunk_flops(shape, chunk, checkpointing) for chunk in chunks)
    num_pairs = sum(chunk.num_pairs * chunk.num_budgets for chunk in chunks)
    num_texts = sum(chunk.captions.rows for chunk in chunks)
    if len(chunks) > 1:
        total += sum(reading_flops(shape, chunk) for chunk in chunks if chunk.captions.rows)
    return total + 6 * num_pairs * num_texts * shape.dim


def reading_flops(shape: ModelShape, chunk: Step) -> int:
    """Embedding the pairs of a chunk, without a graph."""
    return vision_flops(shape, chunk) + sum(
        forward_flops(shape, size) for size in (chunk.pictures, chunk.captions)
    )


def vision_flops(shape: ModelShape, chunk: Step) -> int:
    """Encoding the pictures of a chunk."""
    return chunk.num_encoded * shape.tower_flops + chunk.pictures.rows * shape.connector_flops


def chunk_flops(shape: ModelShape, chunk: Step, checkpointing: bool) -> int:
    """Both losses of a chunk and their gradient, but for the similarities of the pairs."""
    total = vision_flops(shape, chunk) + 4 * chunk.num_answer_tokens * shape.dim * shape.vocab_size
    for size in chunk[:3]:
        # With checkpointing Hugging Face lets the embeddings ask for a gradient, needed or not.
        wants_input = checkpointing or size is not chunk.conversations or chunk.pictures.rows > 0
        total += forward_flops(shape, size) + backward_flops(shape, size, wants_input)
        if checkpointing:
            total += recomputed_flops(shape, size)
    return total
