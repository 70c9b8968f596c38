"""How fast is a training step? Ours against the plain way (`plain_step.py`): same model, same samples, in one run.

    python -m benchmarks.training_step --preset demo
    python -m benchmarks.training_step --preset llava-1.5-7b-random --contrastive-batch-size 1024   (needs a GPU)

The two take turns, step by step, and the median over the steps counts. Memory is measured apart: on
a CPU in a process of its own for each, as the growth of the resident memory over what model and
samples take; on a GPU by PyTorch. A sample is a conversation or a pair. FLOPs are what PyTorch
counts in one step (causal attention as if it were full).
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
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain_step import plain_batch, plain_step
from benchmarks.workloads import Workload, demo_model, demo_workload, large_model, large_workload
from components.methods.fwd2bot import DoubleForward
from components.methods.method import enable_gradient_checkpointing
from components.training.budgets import all_tokens
from components.training.collate import collate
from components.training.optimizer import build_optimizer, trained_parameters
from components.training.step import backward_step, train_step

Preset = Literal["demo", "llava-1.5-7b-random"]
Way = Literal["ours", "plain"]
WAYS: tuple[Way, ...] = ("ours", "plain")
Step = Callable[[], Any]


def prepare(
    preset: Preset, contrastive: int | None, num_steps: int, turns: str | None, spread: float
) -> Workload:
    """The samples of a preset; `turns` replaces the preset's way to read conversations."""
    workload = (
        demo_workload(num_steps, contrastive)
        if preset == "demo"
        else large_workload(num_steps, contrastive, spread)
    )
    if turns is None:
        return workload
    texts = workload.params.texts.model_copy(update={"turns": turns})
    return workload._replace(params=workload.params.model_copy(update={"texts": texts}))


def build_model(preset: Preset, workload: Workload, way: Way) -> DoubleForward:
    """The plain way checkpoints on a GPU, because it would not fit otherwise; ours as the preset says."""
    model = demo_model(workload.params) if preset == "demo" else large_model(workload.params)
    if workload.params.gradient_checkpointing or (way == "plain" and preset != "demo"):
        enable_gradient_checkpointing(model)
    if way == "plain":
        for layer in model.adapters.layers:
            del layer.forward  # PEFT's own again
    return model


def steps_of(way: Way, model: DoubleForward, workload: Workload) -> list[Step]:
    """One call per step, its batch made ready; the weights go on from call to call."""
    params, device = workload.params, model.backbone.device
    optimizer = build_optimizer(trained_parameters(model), params.optimizer)
    calls: list[Step] = []
    for groups in workload.steps:
        if way == "plain":
            batch = plain_batch(workload.samples, groups, model, params.texts).to(device)
            calls.append(
                partial(plain_step, model, optimizer, batch, params.losses, params.optimizer)
            )
            continue
        chunks = [
            collate(
                {i: workload.samples[i] for group in chunk for i in group},
                chunk,
                model.backbone,
                all_tokens(model.num_summary_tokens),
                params.texts,
            ).to(device)
            for chunk in groups.chunks(params.samples_per_chunk)
        ]
        rate, norm = params.optimizer.learning_rate, params.optimizer.max_gradient_norm
        calls.append(
            partial(
                train_step,
                model,
                optimizer,
                partial(backward_step, model, chunks, params.losses),
                rate,
                norm,
            )
        )
    return calls


def measure_time(preset: Preset, workload: Workload) -> dict[Way, dict[str, float]]:
    """Median seconds of a step, after one to warm up, and FLOPs of the first."""
    calls = {way: steps_of(way, build_model(preset, workload, way), workload) for way in WAYS}
    flops = {}
    for way in WAYS:
        with FlopCounterMode(display=False) as counter:
            calls[way][0]()
        flops[way] = counter.get_total_flops()
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
    """Bytes that one step needs on top of model and samples, at its peak."""
    torch.set_num_threads(num_threads)
    calls = steps_of(
        way, build_model(preset, workload, way), workload._replace(steps=workload.steps[:1])
    )
    gc.collect()
    if preset != "demo":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        calls[0]()
        return torch.cuda.max_memory_allocated() - before
    before = psutil.Process().memory_info().rss
    calls[0]()
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, 0)


def in_fresh_process(function: Callable[..., int], *arguments: Any) -> int:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def report(preset: Preset, workload: Workload, num_threads: int) -> dict[str, Any]:
    """All figures of one setting."""
    memory = {
        way: in_fresh_process(measure_memory, preset, workload, way, num_threads) for way in WAYS
    }
    timed = measure_time(preset, workload)
    samples = sum(map(len, workload.steps[0]))
    per_second = {way: samples / timed[way]["seconds"] for way in WAYS}
    return {
        "preset": preset,
        "device": torch.cuda.get_device_name()
        if preset != "demo"
        else f"{platform.machine()}, {num_threads} threads",
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
    """The figures as a table for people."""
    rows = [
        ("samples/s", figures["samples_per_second"], "{:.1f}"),
        (
            "peak memory, MiB",
            {k: v / 2**20 if k != "ratio" else v for k, v in figures["peak_memory_bytes"].items()},
            "{:.0f}",
        ),
        (
            "GFLOP per step",
            {way: value / 1e9 for way, value in figures["flops_per_step"].items()},
            "{:.1f}",
        ),
        (
            "GFLOP/s",
            {way: value / 1e9 for way, value in figures["flops_per_second"].items()},
            "{:.1f}",
        ),
    ]
    head = (
        f"{figures['preset']} on {figures['device']}: {figures['autoregressive_batch_size']} conversations, turns "
        f"{figures['turns']}, and {figures['contrastive_batch_size']} pairs a step; chunks of "
        f"{figures['samples_per_chunk']}"
    )
    lines = [head, f"{'':<18}{'ours':>10}{'plain':>10}{'ratio':>8}"]
    for name, values, style in rows:
        ratio = values.get("ratio", values["ours"] / values["plain"])
        lines.append(
            f"{name:<18}{style.format(values['ours']):>10}{style.format(values['plain']):>10}{ratio:>8.2f}"
        )
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
