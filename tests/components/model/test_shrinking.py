"""Grids of few tokens against all grids there are, and pixels against transformers' own."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from components.model.shrinking import shrink, to_pixels, token_grid


@pytest.mark.parametrize(
    ("size", "num_tokens", "grid"),
    [
        ((96, 96), 1, (1, 1)),
        ((96, 96), 4, (2, 2)),
        ((96, 96), 5, (2, 2)),  # one side twice as fine is worth more than a fifth token
        ((96, 96), 6, (2, 3)),
        ((96, 96), 9, (3, 3)),
        ((96, 96), 36, (6, 6)),
        ((200, 100), 8, (2, 4)),
        ((100, 200), 8, (4, 2)),
        ((640, 480), 12, (3, 4)),
        ((900, 100), 4, (1, 4)),
    ],
)
def test_the_grid_has_at_most_so_many_tokens_and_the_shape_of_the_picture(
    size: tuple[int, int], num_tokens: int, grid: tuple[int, int]
) -> None:
    assert token_grid(*size, num_tokens) == grid


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 4, 5, 7, 9, 16, 30])
@pytest.mark.parametrize("size", [(96, 96), (33, 64), (90, 40), (500, 31)])
def test_no_other_grid_sees_the_coarser_side_more_finely(
    size: tuple[int, int], num_tokens: int
) -> None:
    width, height = size
    best = (0, 0)
    for rows in range(1, num_tokens + 1):
        for columns in range(1, num_tokens + 1):
            if rows * columns <= num_tokens:
                # cross-multiplied, so that all numbers are whole
                best = max(best, (min(rows * width, columns * height), rows * columns))
    rows, columns = token_grid(width, height, num_tokens)
    assert (min(rows * width, columns * height), rows * columns) == best


def test_all_of_the_picture_is_shrunk_and_its_mean_stays() -> None:
    ramp = np.linspace(0, 255, 96).astype(np.uint8)
    image = Image.fromarray(np.repeat(np.tile(ramp, (48, 1))[..., None], 3, axis=2))
    small = shrink(image, 8, 4)
    assert small.size == (16, 8)
    columns = np.array(small)[..., 0].mean(axis=0)
    blocks = ramp.reshape(16, 6).mean(axis=1)
    np.testing.assert_allclose(columns, blocks, atol=3)


def test_pixels_are_those_of_transformers_without_its_resizing() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (16, 32, 3), dtype=np.uint8))
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    expected = processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(to_pixels(image, processor), expected)
