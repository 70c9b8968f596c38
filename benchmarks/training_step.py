"""Speed and memory of a training step: ours against the plain way (`plain_step.py`) in one run.

    python -m benchmarks.training_step --preset demo
    python -m benchmarks.training_step --preset llava-1.5-7b-random   (needs a GPU)

Both have the same model and the same samples and take turns, step by step; the median over the
steps counts. Memory is measured apart: on a CPU in a process of its own for each, as the growth of
the resident memory over what model and samples take; on a GPU by PyTorch. A sample is a
conversation or a pair. FLOPs are what PyTorch counts in one step (causal attention as if it were
full).
"""

import gc
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
import torch
import typer

from benchmarks.plain_step import plain_batch, plain_step
from benchmarks.workloads import Workload, demo_model, demo_workload, large_model, large_workload
from components.costs.flop_counter import flop_counter
from components.methods.fwd2bot import DoubleForward
from components.methods.method import enable_gradient_checkpointing
from components.training.budgets import all_tokens
from components.training.collate import TrainBatch, collate
from components.training.optimizer import Optimizer, build_optimizer, trained_parameters
from components.training.step import backward_step, update_weights
from components.training.training_settings import TrainParams

Preset = Literal["demo", "llava-1.5-7b-random"]
Way = Literal["ours", "plain"]
WAYS: tuple[Way, ...] = ("ours", "plain")
Step = Callable[[], Any]


def prepare(
    preset: Preset, contrastive: int | None, num_steps: int, turns: str | None, spread: float
) -> Workload:
    """Make the samples of a preset; `turns` replaces the preset's way to read conversations."""
    if preset == "demo":
        workload = demo_workload(num_steps, contrastive)
    else:
        workload = large_workload(num_steps, contrastive, spread)
    if turns is None:
        return workload
    texts = workload.params.texts.model_copy(update={"turns": turns})
    return workload._replace(params=workload.params.model_copy(update={"texts": texts}))


def build_model(preset: Preset, workload: Workload, way: Way) -> DoubleForward:
    """Build a model for one way; on a GPU the plain one needs checkpoints to fit at all."""
    model = demo_model(workload.params) if preset == "demo" else large_model(workload.params)
    if workload.params.gradient_checkpointing or (way == "plain" and preset != "demo"):
        enable_gradient_checkpointing(model)
    if way == "plain":
        for layer in model.adapters.layers:
            del layer.forward  # PEFT's own again
    return model


def steps_of(way: Way, model: DoubleForward, workload: Workload) -> list[Step]:
    """Make one call per step, its batch ready; the weights go on from call to call."""
    params, device = workload.params, model.backbone.device
    optimizer = build_optimizer(trained_parameters(model), params.optimizer)
    budgets = all_tokens(model.num_summary_tokens)
    calls: list[Step] = []
    for groups in workload.steps:
        if way == "plain":
            batch = plain_batch(workload.samples, groups, model, params.texts).to(device)
            calls.append(
                partial(plain_step, model, optimizer, batch, params.losses, params.optimizer)
            )
            continue
        chunks: list[TrainBatch] = []
        for chunk in groups.chunks(params.samples_per_chunk):
            members = {index: workload.samples[index] for index in chunk.members}
            collated = collate(members, chunk, model.backbone, budgets, params.texts)
            chunks.append(collated.to(device))
        calls.append(partial(our_step, model, optimizer, chunks, params))
    return calls


def our_step(
    model: DoubleForward, optimizer: Optimizer, chunks: list[TrainBatch], params: TrainParams
) -> None:
    """Make one update, as the loop of training does."""
    losses = backward_step(model, chunks, params.losses)
    rate, max_norm = params.optimizer.learning_rate, params.optimizer.max_gradient_norm
    update_weights(model, optimizer, losses, rate, max_norm)


def measure_time(preset: Preset, workload: Workload) -> dict[Way, dict[str, float]]:
    """Measure the median seconds of a step, after one to warm up, and FLOPs of the first."""
    calls = {way: steps_of(way, build_model(preset, workload, way), workload) for way in WAYS}
    flops = {}
    for way in WAYS:
        with flop_counter() as counter:
            calls[way][0]()
        flops[way] = counter.get_total_flops()

    # the two take turns, so that a slow moment of the machine hits both
    seconds: dict[Way, list[float]] = {way: [] for way in WAYS}
    for number in range(len(workload.steps)):
        for way in WAYS if number % 2 else WAYS[::-1]:
            started = time.perf_counter()
            calls[way][number]()  # ends with values on the CPU, so a GPU has finished
            seconds[way].append(time.perf_counter() - started)
    return {
        way: {"seconds": statistics.median(seconds[way]), "flops": float(flops[way])}
        for way in WAYS
    }


def measure_memory(preset: Preset, workload: Workload, way: Way, num_threads: int) -> int:
    """Measure the bytes that one step needs on top of model and samples, at its peak."""
    torch.set_num_threads(num_threads)
    first_step = workload._replace(steps=workload.steps[:1])
    (step,) = steps_of(way, build_model(preset, workload, way), first_step)
    gc.collect()
    if preset != "demo":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    before = psutil.Process().memory_info().rss
    step()
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, 0)


def in_fresh_process(function: Callable[..., int], *arguments: Any) -> int:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def report(preset: Preset, workload: Workload, num_threads: int) -> dict[str, Any]:
    """Measure all figures of one setting."""
    memory = {
        way: in_fresh_process(measure_memory, preset, workload, way, num_threads) for way in WAYS
    }
    timed = measure_time(preset, workload)

    # a sample is a conversation or a pair
    samples = sum(map(len, workload.steps[0]))
    per_second = {way: samples / timed[way]["seconds"] for way in WAYS}
    on_cpu = f"{platform.machine()}, {num_threads} threads"
    device = on_cpu if preset == "demo" else torch.cuda.get_device_name()
    return {
        "preset": preset,
        "device": device,
        "torch": torch.__version__,
        "turns": workload.params.texts.turns,
        "autoregressive_batch_size": len(workload.steps[0].autoregressive),
        "contrastive_batch_size": len(workload.steps[0].contrastive),
        "samples_per_chunk": workload.params.samples_per_chunk,
        "steps": len(workload.steps),
        "samples_per_second": {**per_second, "ratio": per_second["ours"] / per_second["plain"]},
        "peak_memory_bytes": {**memory, "ratio": memory["ours"] / memory["plain"]},
        "flops_per_step": {way: timed[way]["flops"] for way in WAYS},
        "flops_per_second": {way: timed[way]["flops"] / timed[way]["seconds"] for way in WAYS},
    }


def table(figures: dict[str, Any]) -> str:
    """Format the figures as a table for people."""
    head = (
        f"{figures['preset']} on {figures['device']}: {figures['autoregressive_batch_size']} "
        f"conversations, turns {figures['turns']}, and {figures['contrastive_batch_size']} pairs "
        f"a step; chunks of {figures['samples_per_chunk']}"
    )
    lines = [head, f"{'':<18}{'ours':>10}{'plain':>10}{'ratio':>8}"]
    # name, figures, unit, digits
    rows = [
        ("samples/s", "samples_per_second", 1, 1),
        ("peak memory, MiB", "peak_memory_bytes", 2**20, 0),
        ("GFLOP per step", "flops_per_step", 1e9, 1),
        ("GFLOP/s", "flops_per_second", 1e9, 1),
    ]
    for name, key, unit, digits in rows:
        ours, plain = figures[key]["ours"], figures[key]["plain"]
        cells = "".join(f"{value / unit:>10.{digits}f}" for value in (ours, plain))
        lines.append(f"{name:<18}{cells}{ours / plain:>8.2f}")
    return "\n".join(lines)


def main(
    preset: Annotated[str, typer.Option(help="demo, or llava-1.5-7b-random (on a GPU).")] = "demo",
    contrastive_batch_size: Annotated[
        int | None, typer.Option(help="Pairs a step; otherwise the preset's.")
    ] = None,
    turns: Annotated[
        str | None, typer.Option(help="together or apart; otherwise the preset's.")
    ] = None,
    samples_per_chunk: Annotated[int | None, typer.Option(help="Otherwise the preset's.")] = None,
    spread: Annotated[
        float, typer.Option(help="Of the lengths of conversations, for the 7B preset; 0: equal.")
    ] = 0.0,
    steps: Annotated[int, typer.Option(help="Steps that are timed.")] = 10,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the figures there too.")
    ] = None,
) -> None:
    """Measure one setting and print a table."""
    torch.set_num_threads(threads)
    workload = prepare(preset, contrastive_batch_size, steps, turns, spread)  # type: ignore[arg-type]
    if samples_per_chunk:
        workload = workload._replace(
            params=workload.params.model_copy(update={"samples_per_chunk": samples_per_chunk})
        )
    figures = report(preset, workload, threads)  # type: ignore[arg-type]
    print(table(figures))
    if json_path:
        json_path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    typer.run(main)
