"""Vision features on disk: those of a frozen tower are the same in every run, epoch and sweep.

One file per picture, named by the hash of its pixels, in a folder named by everything that its
contents depend on. What is stored is the tower's output, before the connector, which may be
trained. LLaVA-1.5 in bfloat16 takes 1.2 MB a picture.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.files.code import code_sha256
from components.files.permissions import write_by_umask
from components.model.families.llava import LlavaBackbone
from components.training.distributed import gather_objects, rank, world_size

LIBRARIES = ("torch", "transformers", "pillow")
CODE = ("components.model.families.llava",)  # what it imports computes the features
NAME = "features"  # of the only tensor of a file
PICTURES_PER_BATCH = 64
SECONDS_BETWEEN_LINES = 10.0


class FeatureCache:
    """The vision features of pictures under one backbone, by the SHA-256 of their pixels."""

    def __init__(self, folder: Path, backbone: LlavaBackbone) -> None:
        # everything that the features depend on; a change of any starts a folder of its own
        config = backbone.vlm.config
        parts = [
            backbone.weights_sha256,
            backbone.settings_sha256,
            backbone.preprocessing,
            str(backbone.dtype),
            config.vision_feature_layer,
            config.vision_feature_select_strategy,
            backbone.image_processor.to_json_string(),
            *map(version, LIBRARIES),
            code_sha256(CODE),
        ]
        self.folder = folder / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        self.backbone = backbone

    def path(self, pixel_sha256: str) -> Path:
        return self.folder / pixel_sha256[:2] / f"{pixel_sha256}.safetensors"

    def read(self, pixel_sha256: str) -> Tensor:
        """Read (image tokens, vision dim). Raises ValueError for a missing or damaged file."""
        path = self.path(pixel_sha256)
        try:
            return load_file(path)[NAME]
        except (OSError, SafetensorError, KeyError) as error:
            raise ValueError(f"{path}: {error}; remove it, it will be computed again") from error

    def write(self, pixel_sha256: str, features: Tensor) -> None:
        """Write a file that appears whole or not at all."""
        path = self.path(pixel_sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        write_by_umask(partial, lambda place: save_file({NAME: features.contiguous()}, place))
        os.replace(partial, path)

    @torch.no_grad()
    def fill(
        self,
        pictures: Sequence[str],
        open_picture: Callable[[int], Image.Image],
        report: Callable[[str], None],
    ) -> None:
        """Compute the missing features, the workers in turns; return on each when all are there.

        `pictures` are hashes; `open_picture` gives one by its place among them, and `report` is
        called now and then with this worker's progress. A batch is computed whole if any of it is
        missing, so that the last bits of the features do not depend on where an earlier run was
        interrupted.
        """
        starts = range(0, len(pictures), PICTURES_PER_BATCH)[rank() :: world_size()]
        started = shown = time.monotonic()
        for done, start in enumerate(starts):
            stop = min(start + PICTURES_PER_BATCH, len(pictures))
            self._fill_batch(pictures, range(start, stop), open_picture)

            # this worker's pace; the others are about as fast
            if time.monotonic() - shown > SECONDS_BETWEEN_LINES:
                shown = time.monotonic()
                pace = (shown - started) / (done + 1)
                left = pace * (len(starts) - done - 1) / 60
                rate = PICTURES_PER_BATCH * world_size() / pace
                report(
                    f"vision features of {len(pictures)} pictures: {rate:.0f} pictures/s, "
                    f"{left:.1f} min left"
                )

        gather_objects(None)  # wait for the others

    def _fill_batch(
        self, pictures: Sequence[str], places: range, open_picture: Callable[[int], Image.Image]
    ) -> None:
        if all(self.path(pictures[place]).exists() for place in places):
            return

        pictures_read = [open_picture(place) for place in places]
        prepared = self.backbone.prepare(pictures_read)
        batch = self.backbone.vision_features(prepared).cpu()
        for place, features in zip(places, batch, strict=True):
            self.write(pictures[place], features)
