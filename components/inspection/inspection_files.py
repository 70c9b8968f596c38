"""Files of an analysis: `inspection.json`, and the pictures that attention is drawn over."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from components.pictures import encode_png

ANALYSIS = "inspection.json"
DECIMALS = 6  # no machine-dependent digit is kept


def numbers(weights: Tensor) -> Any:
    """Return nested lists of a tensor, rounded."""
    return np.round(weights.double().cpu().numpy(), DECIMALS).tolist()


def picture_file(number: int) -> str:
    """Return the path of the picture with this number in the folder."""
    return f"pictures/{number:03d}.png"


def write_analysis(
    folder: Path, content: Mapping[str, Any], pictures: Sequence[Image.Image]
) -> None:
    """Write the analysis into a folder; equal content is equal bytes."""
    (folder / "pictures").mkdir(parents=True)
    for number, picture in enumerate(pictures):
        (folder / picture_file(number)).write_bytes(encode_png(picture))

    # Keys in one order, whatever order the parts were computed in.
    text = json.dumps(content, sort_keys=True)
    (folder / ANALYSIS).write_text(text + "\n", encoding="utf-8")
