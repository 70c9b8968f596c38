"""Compression against the model called by hand, in any batch, with bad pictures among good ones."""

import io
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from PIL import Image

from components.compression.compressor import compress_batches
from components.compression.corpus import Picture
from components.compression.picture_decoding import decode_batches
from components.methods.checkpoint import load_compressor
from components.methods.fwd2bot import DoubleForward
from components.store.rejects import Reject, UnreadablePictureError
from components.store.shards import TokenRows, encode_rows
from tests.components.compression.models import LIMITS, write_models

SIZES = [(48, 48), (97, 60), (30, 200), (64, 64), (1, 1), (300, 20), (48, 47), (500, 400), (33, 90)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DoubleForward:
    trained = write_models(tmp_path_factory.mktemp("models"))
    return load_compressor(
        trained, str(trained.parent / "tiny-llava"), torch.device("cpu"), torch.float32
    )


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        for width, height in SIZES
    ]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pictures_of(images: list[Image.Image]) -> list[Picture]:
    return [Picture(f"p{number}", partial(png, image)) for number, image in enumerate(images)]


def run(
    model: DoubleForward, pictures: list[Picture], batch_size: int = 4
) -> tuple[TokenRows, list[Reject]]:
    with TemporaryDirectory() as folder:
        batches = decode_batches(
            pictures, model.backbone.prepare, LIMITS, batch_size, Path(folder, "watch")
        )
        return compress_batches(model, batches)


def missing() -> bytes:
    raise UnreadablePictureError("image_missing", "gone")


def test_tokens_equal_the_model_called_by_hand(
    model: DoubleForward, images: list[Image.Image]
) -> None:
    rows, rejects = run(model, pictures_of(images), batch_size=len(images))
    with torch.no_grad():
        expected = model.compress_images(
            model.backbone.encode_images(model.backbone.prepare(images))
        )
    np.testing.assert_allclose(rows.summary_tokens, expected.numpy(), atol=1e-5)
    assert rejects == []
    assert list(zip(rows.widths, rows.heights, strict=True)) == SIZES


def test_tokens_do_not_depend_on_the_batch(model: DoubleForward, images: list[Image.Image]) -> None:
    alone, _ = run(model, pictures_of(images), batch_size=1)
    together, _ = run(model, pictures_of(images), batch_size=8)
    np.testing.assert_allclose(alone.summary_tokens, together.summary_tokens, atol=1e-5)


def test_tokens_are_the_same_bits_every_time(
    model: DoubleForward, images: list[Image.Image]
) -> None:
    first, again = (run(model, pictures_of(images))[0] for _ in range(2))
    np.testing.assert_array_equal(first.summary_tokens, again.summary_tokens)


def test_bad_pictures_leave_their_neighbours_alone(
    model: DoubleForward, images: list[Image.Image]
) -> None:
    good = pictures_of(images)
    whole = png(images[7])
    bad = [
        Picture("a cut", partial(bytes, whole[: len(whole) // 2])),
        Picture("b text", partial(bytes, b"<html>")),
        Picture("c empty", bytes),
        Picture("d gone", missing),
        Picture("e long", partial(png, Image.new("RGB", (2100, 100)))),
    ]
    rows, rejects = run(model, [*bad[:2], *good[:5], bad[2], *good[5:], *bad[3:]])
    expected, _ = run(model, good)
    np.testing.assert_allclose(rows.summary_tokens, expected.summary_tokens, atol=1e-5)
    reasons = ["truncated", "not_an_image", "empty_file", "image_missing", "aspect_ratio"]
    assert [reject[:2] for reject in rejects] == list(
        zip((picture.image_id for picture in bad), reasons, strict=True)
    )


def test_rows_are_sorted_by_id(model: DoubleForward, images: list[Image.Image]) -> None:
    rows, _ = encode_rows(run(model, pictures_of(images)[::-1])[0], "float16")
    assert rows.image_ids == [f"p{number}" for number in range(len(images))]
    assert list(zip(rows.widths, rows.heights, strict=True)) == SIZES


def test_no_pictures_give_no_rows(model: DoubleForward) -> None:
    rows, rejects = run(model, [Picture("x", missing)])
    assert rows.summary_tokens.shape == (0, 4, 32)
    assert [reject.reason for reject in rejects] == ["image_missing"]


def test_values_out_of_range_are_rejects_of_the_codec(
    model: DoubleForward, images: list[Image.Image]
) -> None:
    norm = model.backbone.language_model.norm.weight
    with torch.no_grad():
        norm.mul_(1e6)
    try:
        rows, _ = run(model, pictures_of(images))
        encoded, rejects = encode_rows(rows, "float16")
        assert len(encoded.image_ids) == 0
        assert {reject.reason for reject in rejects} == {"non_finite"}
        assert len(encode_rows(rows, "float32")[0].image_ids) == len(images)
    finally:
        with torch.no_grad():
            norm.mul_(1e-6)
