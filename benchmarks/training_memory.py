"""A table of the memory to train LLaVA-1.5 of 7B and 13B, from formulas of `components/costs`.

    python -m benchmarks.training_memory

The formulas are tested against what autograd saves of a small model. The allocator's own losses,
the workspace of the kernels and NCCL's buffers come on top: leave a tenth.
"""

from pathlib import Path

from transformers import LlavaConfig

from components.costs.llava_shapes import SIZES, Size, llava_config
from components.costs.training_costs import Pass, Step
from components.costs.training_memory import BFLOAT16, Memory, worker_memory
from components.model.families.llava import num_image_tokens
from components.presets import load_preset
from components.training.training_settings import TrainParams

ROOT = Path(__file__).parents[1]
PROMPT_TOKENS, CAPTION_TOKENS = 10, 20
CONVERSATION_TOKENS, ANSWER_TOKENS = 250, 100  # without the picture's
CHUNKS = (1, 2, 4, 8, 16)
NUM_SHARDS = 8  # workers over which `train.parallelism: fsdp` spreads the decoder


def chunk_of(config: LlavaConfig, num_samples: int, num_summary_tokens: int) -> Step:
    """Size the largest chunk of so many samples: pictures with a conversation and a caption."""
    others = 1 + PROMPT_TOKENS + num_summary_tokens
    return Step(
        Pass(num_samples, num_image_tokens(config) + others, num_summary_tokens),
        (Pass(num_samples, CAPTION_TOKENS + others, num_summary_tokens),),
        Pass(num_samples, CONVERSATION_TOKENS + num_summary_tokens, ANSWER_TOKENS),
        num_encoded=num_samples,
        num_answer_tokens=num_samples * ANSWER_TOKENS,
        num_pairs=num_samples,
        num_budgets=1,
    )


def memory_of(size: Size, params: TrainParams, num_samples: int, num_shards: int) -> Memory:
    config = llava_config(size)
    chunk = chunk_of(config, num_samples, params.num_summary_tokens)
    return worker_memory(config, params.adapters, chunk, BFLOAT16, num_shards)


def main() -> None:
    params = load_preset("train", TrainParams, "llava-1.5-7b", ROOT)
    print("GB per GPU; bfloat16 base, float32 adapters, no checkpointing")
    names = ("weights", "trained", "saved", "logits", "all", f"all, fsdp {NUM_SHARDS}")
    widths = (9, 9, 8, 8, 8, 13)
    head = "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
    print(f"{'model':<6}{'chunk':>7}{head}")
    for size in SIZES:
        for num_samples in CHUNKS:
            memory = memory_of(size, params, num_samples, num_shards=1)
            sharded = memory_of(size, params, num_samples, NUM_SHARDS)
            figures = zip([*memory, sum(memory), sum(sharded)], widths, strict=True)
            cells = "".join(f"{value / 1e9:>{width}.1f}" for value, width in figures)
            print(f"{size.name:<6}{num_samples:>7}{cells}")


if __name__ == "__main__":
    main()
