"""Samples over a tiny world, and two workers over gloo."""

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image

from components import schema
from components.methods.fwd2bot import DoubleForward
from components.pictures import PictureLimits, encode_png, pixel_sha256
from components.training.collate import TextParams, TrainSample
from components.training.optimizer import OptimizerParams
from tests.components.model.tiny import COMPRESSOR, compressor

LENGTHS = TextParams(
    phrases_per_caption=0,
    hard_negatives=(),
    turns="together",
    max_caption_tokens=12,
    max_conversation_tokens=200,
    max_row_tokens=None,
)
OPTIMIZER = OptimizerParams(
    matrices="muon",
    momentum=0.95,
    learning_rate=1e-2,
    warmup_share=0.0,
    decay_share=1.0,
    betas=(0.9, 0.999),
    weight_decay=0.0,
    max_gradient_norm=1.0,
)
LIMITS = PictureLimits(
    formats=("PNG",), max_pixels=10_000, max_aspect_ratio=4.0, max_side=100, min_side=8
)
COLOURS = {"red": (200, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 220), "yellow": (220, 220, 0)}


def build_model(llava_folder: Path) -> DoubleForward:
    """Build a compressor without dropout: its gradient is the same however its batch is cut."""
    adapters = COMPRESSOR.adapters.model_copy(update={"dropout": 0.0})
    return compressor(
        llava_folder, params=COMPRESSOR.model_copy(update={"adapters": adapters})
    ).train()


def samples(count: int) -> dict[int, TrainSample]:
    """Make samples, of five two paired, one conversation, one caption, one text-only."""
    return {index: sample(index) for index in range(count)}


def sample(index: int) -> TrainSample:
    kind = index % 5
    colour = list(COLOURS)[index % len(COLOURS)]
    image = Image.new("RGB", (48, 48), COLOURS[colour])
    image.paste((255, 255, 255), (index % 40, index % 33, index % 40 + 8, index % 33 + 8))
    turns = [
        {"role": "user", "content": "what colour?"},
        {"role": "assistant", "content": f"it is {colour} " * (index % 3 + 1)},
    ]
    with_picture = [{"role": "user", "content": "<image>\nwhat colour is it?"}, turns[1]]
    caption = f"a {colour} picture number {index}" + " with a spot" * (index % 2)
    if kind == 4:
        return TrainSample(f"sample-{index}", None, turns, None, None, [])
    phrases = [colour, f"a {colour} picture", f"number {index}"]
    return TrainSample(
        f"sample-{index}",
        image,
        [] if kind == 3 else with_picture,
        None if kind == 2 else caption,
        pixel_sha256(image),
        phrases,
    )


def in_processes(
    world_size: int, function: Callable[..., None], folder: Path, *arguments: Any
) -> None:
    """Run `function(rank, folder, *arguments)` in worker processes joined by gloo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(
        _worker,
        (port, world_size, function, folder, *arguments),
        nprocs=world_size,
        start_method="fork",
    )


def _worker(
    rank: int,
    port: int,
    world_size: int,
    function: Callable[..., None],
    folder: Path,
    *arguments: Any,
) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group(
        "gloo", address, timedelta(seconds=60), world_size=world_size, rank=rank
    )
    function(rank, folder, *arguments)
    dist.destroy_process_group()


def sample_rows(count: int) -> list[dict[str, Any]]:
    """The same samples as rows of the curated table."""
    return [
        {
            schema.SAMPLE_ID: sample.sample_id,
            schema.SOURCE: "test",
            schema.SPLIT: schema.TRAIN,
            schema.IMAGE: sample.image and encode_png(sample.image),
            schema.IMAGE_SHA256: sample.image and pixel_sha256(sample.image),
            schema.WIDTH: sample.image and sample.image.width,
            schema.HEIGHT: sample.image and sample.image.height,
            schema.CONVERSATION: sample.conversation,
            schema.CAPTION: sample.caption,
            schema.PHRASES: list(sample.known_phrases),
        }
        for sample in samples(count).values()
    ]


def write_curated(folder: Path, num_samples: int, num_validation: int) -> None:
    """Write the curated tables that training reads; a validation picture has one question."""
    write(
        folder / "samples" / schema.TRAIN / "part-00000.parquet",
        sample_rows(num_samples),
        schema.SAMPLES,
    )
    held_out = {f"picture-{i}": sample(5 * i + 1) for i in range(num_validation)}
    identity = [
        {schema.IMAGE_ID: image_id, schema.SPLIT: schema.VALIDATION} for image_id in held_out
    ]
    pictures = [item.image for item in held_out.values() if item.image]
    images = [
        {
            schema.IMAGE: encode_png(image),
            schema.IMAGE_SHA256: pixel_sha256(image),
            schema.WIDTH: image.width,
            schema.HEIGHT: image.height,
        }
        for image in pictures
    ]
    captions = [{schema.CAPTIONS: [item.caption, "another caption"]} for item in held_out.values()]
    questions = [
        {
            schema.QUESTION_ID: f"question-{i}",
            schema.BENCHMARK: "short_answer",
            schema.KIND: "colour",
            schema.QUESTION: "what colour is it?",
            schema.ANSWERS: [item.conversation[1]["content"].strip()],
            schema.CHOICES: None,
            schema.GROUP: None,
        }
        for i, item in enumerate(held_out.values())
    ]
    split = f"{schema.VALIDATION}.parquet"
    write(
        folder / "images" / schema.VALIDATION / "part-00000.parquet",
        joined(identity, images),
        schema.IMAGES,
    )
    write(folder / "captions" / split, joined(identity, captions), schema.IMAGE_CAPTIONS)
    write(folder / "questions" / split, joined(identity, questions), schema.QUESTIONS)


def joined(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [a | b for a, b in zip(left, right, strict=True)]


def write(path: Path, rows: list[dict[str, Any]], table_schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=table_schema), path)
