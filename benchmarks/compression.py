"""Pace of compression: ours against the plain way (plain_compression.py) on the same pictures.

    python -m benchmarks.compression --preset demo                   (after `make repro`)
    python -m benchmarks.compression --preset llava-1.5-7b-random    (needs a GPU)

The ways take turns in one process, and the median over the rounds counts. `ours` and `plain` go
from encoded pictures to summary tokens, `shards` from encoded pictures to the bytes of the file.
The two with `model` begin with preprocessed pictures; `plain_model` has its adapter merged into the
weights. FLOPs are counted by PyTorch on our pass, beside the formula of `flows.plan`; the rate of
matrix products is measured on the shapes of the decoder in the same run.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn

from benchmarks.picture_workloads import Workload, demo_workload, large_workload
from benchmarks.plain_compression import plain_pixels, plain_tokens, prompt_ids, undo_shortcuts
from components.compression.compressor import compress_batches, compress_prepared
from components.compression.corpus import Picture
from components.compression.picture_decoding import Batch, decode_batches
from components.costs.corpus_plan import Corpus, picture_flops
from components.costs.flop_counter import flop_counter
from components.costs.training_costs import model_shape
from components.methods.fwd2bot import DoubleForward
from components.model.adapters import COMPRESSION
from components.model.families.llava import num_image_tokens
from components.model.prepared import PreparedPictures
from components.store.provenance import SCHEMA_VERSION, Provenance
from components.store.shards import TokenRows, encode_rows, shard_bytes

DEMO, LARGE = "demo", "llava-1.5-7b-random"
WORKLOADS = {DEMO: demo_workload, LARGE: large_workload}
MODEL_BATCHES = 8  # that the model alone runs per round
MATRIX_REPEATS = 10
# of the tokens against those of the plain way
MAX_ERROR = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
REQUIRED = {
    DEMO: {"ours / plain": 1.3},
    LARGE: {
        "ours / plain": 2.5,
        "ours_model / plain_model": 1.25,
        "shards / ours_model": 0.97,
        "ours_model / matrix rate": 0.8,
    },
}
Way = Callable[[], int]  # compresses some pictures and says how many


def ours(workload: Workload, model: DoubleForward, pictures: Sequence[Picture]) -> TokenRows:
    """Compress encoded pictures to summary tokens; as many threads decode as the job's decoders."""
    parts = in_batches(pictures, workload.batch_size)
    with (
        TemporaryDirectory() as folder,
        ThreadPoolExecutor(workload.params.decoders_per_worker) as threads,
    ):

        def decode(number: int) -> Batch:
            watch = Path(folder, str(number))
            (batch,) = decode_batches(
                parts[number],
                model.backbone.prepare,
                workload.params.pictures,
                workload.batch_size,
                watch,
            )
            return batch

        rows, rejects = compress_batches(model, threads.map(decode, range(len(parts))))
    assert not rejects
    return rows


def shards(workload: Workload, model: DoubleForward) -> int:
    """Compress encoded pictures to the bytes of a file."""
    rows, _ = encode_rows(ours(workload, model, workload.pictures), workload.params.codec)
    shard_bytes(rows, provenance(workload, model), workload.params.rows_per_row_group)
    return len(rows.image_ids)


def plain(workload: Workload, model: DoubleForward) -> int:
    """Compress encoded pictures to tokens, the plain way."""
    count = 0
    for part in in_batches(workload.pictures, workload.batch_size):
        count += len(plain_tokens(model, plain_pixels(model, part)))
    return count


def in_batches(pictures: Sequence[Picture], size: int) -> list[Sequence[Picture]]:
    """Cut pictures into batches."""
    return [pictures[start : start + size] for start in range(0, len(pictures), size)]


def ways_of(workload: Workload) -> dict[str, Way]:
    """Build every way, with a model of its own where it has to be another."""
    fast = workload.build()
    merged, slow = undo_shortcuts(workload.build()), undo_shortcuts(workload.build())
    for model in (fast, merged):
        model.adapters.merge(COMPRESSION)

    # The model alone runs on pictures that were preprocessed before the clock starts.
    first = workload.pictures[: workload.batch_size * MODEL_BATCHES]
    pixels = [plain_pixels(fast, part) for part in in_batches(first, workload.batch_size)]
    prepared = [prepared_pixels(part) for part in pixels]

    check_tokens(workload, fast, slow)
    return {
        "ours": lambda: len(ours(workload, fast, workload.pictures).image_ids),
        "plain": partial(plain, workload, slow),
        "shards": partial(shards, workload, fast),
        "ours_model": lambda: sum(len(compress_prepared(fast, part)) for part in prepared),
        "plain_model": lambda: sum(len(plain_tokens(merged, part)) for part in pixels),
    }


def check_tokens(workload: Workload, fast: DoubleForward, slow: DoubleForward) -> None:
    """Stop unless both ways give the same tokens, as far as the number type goes."""
    first = workload.pictures[: workload.batch_size]
    expected = plain_tokens(slow, plain_pixels(slow, first))
    found = ours(workload, fast, first).summary_tokens
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    print(
        f"tokens differ from those of the plain way by {error:.1e} of their length "
        f"({fast.backbone.dtype})"
    )
    if not error <= MAX_ERROR[fast.backbone.dtype]:
        sys.exit("compression: the two ways do not compute the same; their times say nothing")


def measure(ways: dict[str, Way], rounds: int) -> dict[str, float]:
    """Measure pictures per second, the median over the rounds, after one to warm up.

    The order turns from round to round.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            count = ways[name]()  # ends with values on the CPU, so a GPU has finished
            if number:
                rates[name].append(count / (time.perf_counter() - started))
    return {name: statistics.median(found) for name, found in rates.items()}


def counted_flops(workload: Workload, model: DoubleForward) -> int:
    """Count the operations of our pass per picture by PyTorch.

    It sees the products of eager attention only.
    """
    model.backbone.vlm.set_attn_implementation("eager")
    with flop_counter() as counter:
        compress_prepared(model, prepared_pixels(plain_pixels(model, workload.pictures[:1])))
    return counter.get_total_flops()


def formula_flops(model: DoubleForward) -> int:
    """Count the same by the formula of `flows.plan`."""
    config, num_tokens = model.backbone.vlm.config, model.num_summary_tokens
    prompt = prompt_ids(model).shape[1] - num_image_tokens(config)
    return picture_flops(config, model_shape(config, None), Corpus(1, num_tokens, prompt, 0, 0, 1))


@torch.inference_mode()
def matrix_rate(model: DoubleForward, batch_size: int) -> float:
    """Measure operations per second of products of the decoder's shapes on random numbers."""
    tokens = batch_size * (prompt_ids(model).shape[1] + model.num_summary_tokens)
    device, dtype = model.backbone.device, model.backbone.dtype
    modules = model.backbone.language_model.layers[0].modules()
    layers = [part for part in modules if isinstance(part, nn.Linear)]
    inputs = [torch.randn(tokens, part.in_features).to(device, dtype) for part in layers]

    seconds = []
    for _ in range(MATRIX_REPEATS):
        started = time.perf_counter()
        outputs = [part(rows)[0, 0] for part, rows in zip(layers, inputs, strict=True)]
        torch.stack(outputs).tolist()  # waits for a GPU
        seconds.append(time.perf_counter() - started)
    num_weights = sum(part.weight.numel() for part in layers)
    return 2 * tokens * num_weights / statistics.median(seconds)


def provenance(workload: Workload, model: DoubleForward) -> Provenance:
    """Return the provenance that a file has to carry; nobody reads it."""
    return Provenance(
        schema_version=SCHEMA_VERSION,
        codec=workload.params.codec,
        fit_sha256=None,
        num_summary_tokens=model.num_summary_tokens,
        dim=model.backbone.dim,
        base="",
        model={},
        preprocessing={},
        compute={},
        libraries={},
    )


def prepared_pixels(pixels: torch.Tensor) -> PreparedPictures:
    return PreparedPictures(len(pixels), {"pixel_values": pixels})


def report(preset: str, workload: Workload, rounds: int) -> dict[str, Any]:
    """Measure all figures of one preset."""
    rates = measure(ways_of(workload), rounds)

    # Operations per picture, and how many of them a second allows.
    model = workload.build()
    model.adapters.merge(COMPRESSION)
    rate = matrix_rate(model, workload.batch_size)
    flops = {"formula": formula_flops(model), "counted": counted_flops(workload, model)}

    device = f"{platform.machine()}, {torch.get_num_threads()} thread"
    if preset == LARGE:
        device = torch.cuda.get_device_name()
    return {
        "preset": preset,
        "device": device,
        "torch": torch.__version__,
        "dtype": workload.params.dtype,
        "batch_size": workload.batch_size,
        "decoders": workload.params.decoders_per_worker,
        "pictures": len(workload.pictures),
        "rounds": rounds,
        "pictures_per_second": {**rates, "ratio": rates["ours"] / rates["plain"]},
        "ratios": {
            "ours / plain": rates["ours"] / rates["plain"],
            "ours_model / plain_model": rates["ours_model"] / rates["plain_model"],
            "shards / ours_model": rates["shards"] / rates["ours_model"],
            "ours_model / matrix rate": rates["ours_model"] * flops["formula"] / rate,
        },
        "flops_per_picture": flops,
        "matrix_flops_per_second": rate,
    }


def table(figures: dict[str, Any]) -> str:
    """Lay the figures out as a table for people."""
    flops = figures["flops_per_picture"]
    lines = [
        f"{figures['preset']} on {figures['device']}: {figures['pictures']} pictures in batches of "
        f"{figures['batch_size']}, {figures['dtype']}",
        f"{flops['counted'] / 1e9:.4f} GFLOP per picture counted, {flops['formula'] / 1e9:.4f} by "
        f"the formula; matrix products reach {figures['matrix_flops_per_second'] / 1e9:.1f} "
        "GFLOP/s",
        f"{'':<28}{'pictures/s':>12}",
    ]
    for name, rate in figures["pictures_per_second"].items():
        if name != "ratio":
            lines.append(f"{name:<28}{rate:>12.1f}")

    lines.append(f"{'':<28}{'ratio':>12}{'required':>12}")
    required = REQUIRED[figures["preset"]]
    for name, ratio in figures["ratios"].items():
        least = f"{required[name]:.2f}" if name in required else "–"
        lines.append(f"{name:<28}{ratio:>12.2f}{least:>12}")
    return "\n".join(lines)


def main(
    preset: Annotated[
        str, typer.Option(help=f"{' or '.join(WORKLOADS)}; the latter on a GPU.")
    ] = DEMO,
    pictures: Annotated[
        int | None, typer.Option(help="Per round; otherwise all 500 of the demo, or 1024.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="That are timed, after one to warm up.")] = 5,
    threads: Annotated[int, typer.Option(help="CPU threads of the model.")] = 1,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the figures there too.")
    ] = None,
) -> None:
    """Measure one preset and print a table."""
    torch.set_num_threads(threads)
    if preset not in WORKLOADS:
        sys.exit(f"compression: --preset {preset}: is none of {', '.join(WORKLOADS)}")
    try:
        workload = WORKLOADS[preset](pictures)
    except ValueError as error:
        sys.exit(f"compression: {error}")
    figures = report(preset, workload, rounds)
    print(table(figures))
    if json_path:
        json_path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    typer.run(main)
