"""Samples over a tiny world, and two workers over gloo."""

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image

from components.model.double_forward import DoubleForward
from components.training.collate import LengthParams, TrainSample
from tests.components.model.tiny import COMPRESSOR, compressor

LENGTHS = LengthParams(max_caption_tokens=12, max_conversation_tokens=200)
COLOURS = {"red": (200, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 220), "yellow": (220, 220, 0)}


def build_model(llava_folder: Path) -> DoubleForward:
    """A compressor without dropout, whose gradient is therefore the same however its batch is cut."""
    adapters = COMPRESSOR.adapters.model_copy(update={"dropout": 0.0})
    return compressor(llava_folder, params=COMPRESSOR.model_copy(update={"adapters": adapters})).train()


def samples(count: int) -> dict[int, TrainSample]:
    """Of five: two paired, one conversation only, one caption only, one text-only; every picture another."""
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
        return TrainSample(f"sample-{index}", None, turns, None)
    return TrainSample(f"sample-{index}", image, [] if kind == 3 else with_picture, None if kind == 2 else caption)


def in_two_processes(function: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Run `function(rank, folder, *arguments)` in two worker processes joined by gloo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(_worker, (port, function, folder, *arguments), nprocs=2, start_method="fork")


def _worker(rank: int, port: int, function: Callable[..., None], folder: Path, *arguments: Any) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", address, timedelta(seconds=60), world_size=2, rank=rank)
    function(rank, folder, *arguments)
    dist.destroy_process_group()
