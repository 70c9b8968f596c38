"""Job `plan`: costs to compress, keep, search and ask a corpus, before anything is paid for.

    fwd2bot plan --images 1e9 --num-summary-tokens 16 --gpus 64 --tflops 400 --price 3.50

Operations are counted from the model's shapes; `--tflops` is the measured speed of one GPU
(`benchmarks/`).
"""

import json
from pathlib import Path
from typing import Any

from components.costs.corpus_plan import Corpus, Effort, Machines, Plan, make_plan
from components.costs.llava_shapes import SEVEN_B, THIRTEEN_B, llava_config
from components.model.pretrained import read_model_config
from components.store.codecs import CODECS, picture_bytes

SHAPES = {"llava-1.5-7b": SEVEN_B, "llava-1.5-13b": THIRTEEN_B}
UNITS = ("B", "KB", "MB", "GB", "TB", "PB", "EB")
PROMPT_TOKENS = 11  # of BOS and the summarisation prompt


def read_config(model: str) -> Any:
    """Read the configuration of a LLaVA. Raises ValueError."""
    if model in SHAPES:
        return llava_config(SHAPES[model])
    if not (Path(model) / "config.json").is_file():
        raise ValueError(
            f"--model {model}: is neither one of {', '.join(SHAPES)} nor a folder with a "
            "config.json"
        )

    config = read_model_config(Path(model))
    if config.model_type != "llava":
        raise ValueError(
            f"--model {model}: the formulas are for LLaVA-1.5, this is a {config.model_type}"
        )
    return config


def describe(plan: Plan, corpus: Corpus, machines: Machines) -> str:
    """Return the plan in words and numbers."""
    # compute, once and per question
    rates = (
        f"{machines.num_gpus} GPUs at {machines.flops / 1e12:g} TFLOP/s "
        f"and {machines.price:.2f} an hour"
    )
    lines = [
        f"{corpus.num_pictures:,.0f} pictures, {corpus.num_summary_tokens} tokens each; {rates}",
        "",
        f"{'':<44}{'TFLOP each':>12}{'GPU-hours':>14}{'days':>10}{'cost':>14}",
        _effort_line("compress, once", plan.flops_per_picture, plan.compression),
        _effort_line("a question about every picture", plan.flops_per_question, plan.question_each),
        _effort_line(
            "the same, opening the pictures again",
            plan.flops_per_question_with_picture,
            plan.question_each_with_picture,
        ),
        "",
    ]

    # storage, for each codec and each kind of index
    lines.append(
        f"{plan.num_files:,} files of {corpus.rows_per_shard:,} pictures; "
        "tokens on the disk, before zstd:"
    )
    for codec, size in plan.stored_bytes.items():
        lines.append(f"  {codec:<42}{in_bytes(size):>12}")
    lines.append(f"{'an index of them':<44}{'in memory':>12}{'on the disk':>14}")
    for kind, size in plan.index_memory_bytes.items():
        on_disk = in_bytes(plan.index_disk_bytes[kind])
        lines.append(f"  {kind:<42}{in_bytes(size):>12}{on_disk:>14}")
    return "\n".join(lines)


def in_bytes(size: float) -> str:
    """Return a size such as 131 TB: powers of 1000."""
    unit = 0
    while size >= 1000 and unit < len(UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g} {UNITS[unit]}"


def _effort_line(name: str, flops_each: int, effort: Effort) -> str:
    hours, days, cost = effort.gpu_hours, effort.days, effort.cost
    return f"{name:<44}{flops_each / 1e12:>12.3g}{hours:>14,.1f}{days:>10,.2f}{cost:>14,.0f}"


def main(
    images: float,
    gpus: int,
    tflops: float,
    price: float,
    model: str,
    num_summary_tokens: int,
    question_tokens: int,
    answer_tokens: int,
    rows_per_shard: int,
    as_json: bool,
) -> None:
    """Print the plan, in words or as JSON."""
    corpus = Corpus(
        images, num_summary_tokens, PROMPT_TOKENS, question_tokens, answer_tokens, rows_per_shard
    )
    machines = Machines(gpus, tflops * 1e12, price)

    config = read_config(model)
    dim = config.text_config.hidden_size
    sizes: dict[str, int] = {codec: picture_bytes(codec, 1, dim) for codec in CODECS}
    plan = make_plan(config, corpus, machines, sizes)
    print(json.dumps(_as_dict(plan), indent=1) if as_json else describe(plan, corpus, machines))


def _as_dict(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON takes it: named tuples would become lists."""
    values = plan._asdict()
    for name, value in values.items():
        if isinstance(value, Effort):
            values[name] = value._asdict()
    return values


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("plan")
