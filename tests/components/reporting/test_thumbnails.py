"""Pictures in the page are the pictures of the corpus."""

import base64
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from components import schema
from components.pictures import PictureLimits, encode_png
from components.reporting import thumbnails
from components.reporting.thumbnails import Thumbnail

LIMITS = PictureLimits(
    formats=("PNG",), max_pixels=10_000, max_aspect_ratio=4.0, max_side=200, min_side=8
)


def pixels(shown: Thumbnail) -> np.ndarray:
    head, _, data = shown.uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def write_corpus(folder: Path, pictures: dict[str, bytes]) -> None:
    rows = [
        dict(zip(schema.IMAGES.names, (name, "test", data, "0" * 64, 1, 1), strict=True))
        for name, data in pictures.items()
    ]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema.IMAGES), folder / "part-00000.parquet")


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_small_picture_keeps_its_pixels(tmp_path: Path) -> None:
    small = noise(20, 30)
    write_corpus(
        tmp_path / "images",
        {"small": encode_png(Image.fromarray(small)), "other": b"not asked for"},
    )
    found = thumbnails.read_thumbnails(tmp_path / "images", {"small", "absent"}, LIMITS, 64)
    assert list(found) == ["small"]
    assert (found["small"].width, found["small"].height) == (30, 20)
    np.testing.assert_array_equal(pixels(found["small"]), small)


def test_large_picture_is_scaled_down_in_proportion(tmp_path: Path) -> None:
    write_corpus(tmp_path / "images", {"large": encode_png(Image.fromarray(noise(60, 120)))})
    found = thumbnails.read_thumbnails(tmp_path / "images", {"large"}, LIMITS, 40)
    assert pixels(found["large"]).shape == (20, 40, 3)


def test_picture_that_cannot_be_opened_is_left_out(tmp_path: Path) -> None:
    write_corpus(
        tmp_path / "images",
        {"broken": b"\x89PNG\r\n\x1a\n", "tiny": encode_png(Image.new("RGB", (2, 2)))},
    )
    assert thumbnails.read_thumbnails(tmp_path / "images", {"broken", "tiny"}, LIMITS, 40) == {}


def test_token_strip_has_a_pixel_for_every_number() -> None:
    tokens = np.array([[-5.0, 0.0, 5.0], [2.5, 5.0, -5.0]], np.float32)
    strip = pixels(thumbnails.token_strip(tokens))
    assert strip.shape == (2, 3, 3)
    np.testing.assert_array_equal(strip[0], thumbnails.STRIP_COLOURS)
    np.testing.assert_array_equal(strip[0, 2], strip[1, 1])
    assert strip[1, 0].tolist() not in strip[0].tolist()


def test_strip_of_zeros_is_of_the_neutral_colour() -> None:
    strip = pixels(thumbnails.token_strip(np.zeros((2, 4), np.float32)))
    assert (strip == thumbnails.STRIP_COLOURS[1]).all()


def test_mean_file_bytes_is_that_of_the_corpus(tmp_path: Path) -> None:
    write_corpus(tmp_path / "images", {"a": b"x" * 10, "b": b"x" * 20})
    assert thumbnails.mean_file_bytes(tmp_path / "images") == 15
