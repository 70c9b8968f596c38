"""`Compressor` gives what the flows give."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.compression.compressor import compress_prepared
from components.methods.checkpoint import load_compressor
from components.model.adapters import COMPRESSION
from components.pictures import PictureError
from components.store.store_reader import StoreReader
from flows.answer import answer
from fwd2bot import Compressor
from tests.fwd2bot.conftest import IMAGE_IDS


@pytest.fixture(scope="module")
def compressor(project: Path) -> Compressor:
    return Compressor.load(project / "models/compressor")


def test_import_is_light() -> None:
    code = (
        "import fwd2bot, sys; print(sorted({'torch', 'ray', 'numpy', 'flows'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_use_leaves_the_environment_alone() -> None:
    """Settings of flows/ are for commands; whoever imports the package has Ray's and Gloo's own."""
    code = (
        "from fwd2bot import Compressor, TokenStore; import os, sys; print('flows' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_compress_gives_what_a_worker_stores(project: Path, compressor: Compressor) -> None:
    paths = [project / "pictures" / image_id for image_id in IMAGE_IDS]
    found = compressor.compress(paths, batch_size=2)
    assert (found.shape, found.dtype) == ((5, compressor.num_summary_tokens, 32), np.float32)

    model = load_compressor(
        project / "models/compressor",
        str(project / "models/tiny-llava"),
        torch.device("cpu"),
        torch.float32,
    )
    model.adapters.merge(COMPRESSION)  # as the worker does
    wanted = compress_prepared(model, model.prepare([Image.open(path) for path in paths]))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_pictures_come_as_files_or_as_images_of_any_mode(
    project: Path, compressor: Compressor
) -> None:
    path = project / "pictures/0.png"
    image = Image.open(path)
    (wanted,) = compressor.compress([path])
    np.testing.assert_array_equal(compressor.compress(str(path))[0], wanted)
    np.testing.assert_array_equal(compressor.compress(image)[0], wanted)
    np.testing.assert_array_equal(compressor.compress(image.convert("RGBA"))[0], wanted)
    assert compressor.compress([]).shape == (0, *wanted.shape)


def test_answer_is_that_of_the_job(project: Path, compressor: Compressor) -> None:
    store = StoreReader.open(project / "store")
    for image_id in IMAGE_IDS[:2]:
        wanted = answer(store, project / "models/compressor", None, image_id, "what colour?", 6)
        assert compressor.answer(store.tokens([image_id])[0], "what colour?", 6) == wanted


def test_texts_and_pictures_are_embedded_alike(project: Path, compressor: Compressor) -> None:
    store = StoreReader.open(project / "store")
    pictures = compressor.embed_images(store.tokens(store.ids))
    np.testing.assert_allclose(pictures, store.embeddings(), atol=1e-6)
    text = compressor.embed_text("a red circle")
    assert (text.shape, text.dtype) == ((compressor.dim,), np.float32)
    assert np.linalg.norm(text) == pytest.approx(1, abs=1e-5)


def test_mistakes_say_the_way_out(project: Path, compressor: Compressor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no trained compressor"):
        Compressor.load(tmp_path)
    (tmp_path / "x.png").write_text("no picture")
    with pytest.raises(PictureError, match=r"x\.png"):
        compressor.compress(tmp_path / "x.png")
    tokens = compressor.compress(project / "pictures/0.png")
    with pytest.raises(ValueError, match=r"shape \(1, 4, 32\) instead of \(4, 32\)"):
        compressor.answer(tokens, "what?")
    with pytest.raises(ValueError, match="instead of"):
        compressor.embed_images(tokens[0])
    with pytest.raises(ValueError, match="empty"):
        compressor.answer(tokens[0], " ")
