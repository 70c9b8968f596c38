"""Workloads of compression: a model and encoded pictures, per preset."""

import io
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.workloads import ROOT, TINY_BASE, large_model
from components import schema
from components.compression.corpus import Picture
from components.methods.checkpoint import load_compressor
from components.methods.fwd2bot import DoubleForward
from components.params import load_params
from components.presets import load_preset
from components.training.training_settings import TrainParams
from flows.workers.compress_worker import CompressParams

DEMO_PICTURES = ROOT / "data" / "curated" / "images" / "test"
DEMO_COMPRESSOR = ROOT / "models" / "compressor"
PHOTO_SIZE = (640, 480)
LARGE_PICTURES = 1024
NUM_DIFFERENT = 64  # encoded pictures, which are repeated


class Workload(NamedTuple):
    """Settings, pictures and model of a measurement."""

    params: CompressParams
    pictures: Sequence[Picture]
    build: Callable[[], DoubleForward]  # a new one each time, for inference

    @property
    def batch_size(self) -> int:
        """Return the pictures of a pass; the presets say it."""
        assert self.params.batch_size
        return self.params.batch_size


def demo_workload(num_pictures: int | None) -> Workload:
    """Take the test pictures and the compressor of `make repro`. Raises ValueError without them."""
    if not (DEMO_COMPRESSOR.is_dir() and DEMO_PICTURES.is_dir()):
        raise ValueError(
            f"{DEMO_COMPRESSOR}: there is no trained compressor, or no pictures; run `make repro` "
            "first"
        )
    params = load_params("compress", CompressParams, ROOT / "params.yaml")
    images: list[bytes] = []
    for path in sorted(DEMO_PICTURES.glob("*.parquet")):
        images += pq.read_table(path, columns=[schema.IMAGE])[schema.IMAGE].to_pylist()
    pictures = encoded_pictures(images, num_pictures or len(images))
    return Workload(params, pictures, partial(load_demo, params))


def load_demo(params: CompressParams) -> DoubleForward:
    dtype = getattr(torch, params.dtype)
    model = load_compressor(DEMO_COMPRESSOR, str(TINY_BASE), torch.device("cpu"), dtype)
    assert isinstance(model, DoubleForward)
    return model


def large_workload(num_pictures: int | None) -> Workload:
    """Take random weights of the 7B preset on one GPU, and JPEGs as smooth as photographs.

    Raises ValueError without a GPU.
    """
    if not torch.cuda.is_available():
        raise ValueError("the shapes of LLaVA-1.5-7B need a GPU, and PyTorch sees none")
    params = load_preset("compress", CompressParams, "llava-1.5-7b", ROOT)
    rng = np.random.default_rng(0)
    images = [jpeg(rng) for _ in range(NUM_DIFFERENT)]
    return Workload(params, encoded_pictures(images, num_pictures or LARGE_PICTURES), build_large)


def build_large() -> DoubleForward:
    """Build the model; LoRA starts as the identity, so its second matrix is drawn."""
    model = large_model(load_preset("train", TrainParams, "llava-1.5-7b", ROOT)).eval()
    generator = torch.Generator(model.backbone.device).manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=1e-3, generator=generator)
    return model


def jpeg(rng: np.random.Generator) -> bytes:
    """Draw an encoded picture with large smooth areas and a little grain."""
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(PHOTO_SIZE, Image.Resampling.BICUBIC))
    grainy = smooth + rng.normal(0, 6, (*PHOTO_SIZE[::-1], 3))
    stream = io.BytesIO()
    picture = Image.fromarray(grainy.clip(0, 255).astype(np.uint8))
    picture.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def encoded_pictures(images: Sequence[bytes], count: int) -> list[Picture]:
    """Make `count` pictures of the images, over and over."""
    repeated = islice(cycle(images), count)
    return [
        Picture(f"{number:09d}", partial(bytes, image)) for number, image in enumerate(repeated)
    ]
