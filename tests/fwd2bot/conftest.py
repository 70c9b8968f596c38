"""A project folder with a tiny compressor, pictures, and the store that it writes of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.compression.identity import provenance_of
from components.store.shards import TokenRows
from fwd2bot import Compressor
from tests.components.compression.models import write_models
from tests.components.store.stores import write_store

IMAGE_IDS = [f"{number}.png" for number in range(5)]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    models, pictures = folder / "models", folder / "pictures"
    models.mkdir()
    pictures.mkdir()
    compressor = write_models(models)
    rng = np.random.default_rng(0)
    for image_id in IMAGE_IDS:
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / image_id)

    tokens = Compressor.load(compressor).compress(pictures / name for name in IMAGE_IDS)
    sizes = (np.full(5, 60, np.int32), np.full(5, 40, np.int32))
    provenance = provenance_of(compressor, "float32", "float32")
    write_store(folder / "store", [TokenRows(IMAGE_IDS, *sizes, tokens)], provenance)
    return folder
