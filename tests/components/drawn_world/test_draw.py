"""Pixels show what the scene says, where it says it."""

import numpy as np
import pytest

from components.drawn_world.draw import CELL, RGB, SIDE, draw_picture, draw_pixels
from components.drawn_world.world import COLOURS, SHAPES, SIZES, TEXTURES, Scene, Sprite, Word


def scene_of(*sprites: Sprite, texture: str = "plain", word: Word | None = None) -> Scene:
    return Scene(sprites, word, "dark", texture, texture_seed=5)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", SHAPES)
def test_centre_of_a_sprite_has_its_colour(colour: str, shape: str) -> None:
    pixels = draw_pixels(scene_of(Sprite(colour, shape, "small", 2, 4)))
    assert tuple(pixels[2 * CELL + CELL // 2, 4 * CELL + CELL // 2]) == RGB[colour]


@pytest.mark.parametrize("texture", TEXTURES)
def test_only_the_cells_of_sprites_and_letters_differ_from_the_background(texture: str) -> None:
    empty = draw_pixels(scene_of(texture=texture)).astype(int)
    full = scene_of(Sprite("red", "star", "large", 1, 1), texture=texture, word=Word("cat", 4, 2))
    differs = np.abs(draw_pixels(full).astype(int) - empty).sum(axis=-1) > 0
    cells = differs.reshape(SIDE // CELL, CELL, SIDE // CELL, CELL).any(axis=(1, 3))
    assert set(zip(*np.nonzero(cells), strict=True)) == {(1, 1), (4, 2), (4, 3), (4, 4)}


def test_large_sprites_cover_more_than_small_ones() -> None:
    def covered(shape: str, size: str) -> int:
        pixels = draw_pixels(scene_of(Sprite("yellow", shape, size, 0, 0)))
        return int((np.abs(pixels.astype(int) - RGB["yellow"]).sum(axis=-1) < 30).sum())

    for shape in SHAPES:
        small, large = (covered(shape, size) for size in SIZES)
        assert large > 1.8 * small


def test_shapes_have_their_areas() -> None:
    """Against the closed forms: circle πr², square (1.72 r)², triangle 3√3/4 r²."""
    radius = 7.2
    expected = {
        "circle": np.pi * radius**2,
        "square": (1.72 * radius) ** 2,
        "triangle": 0.75 * 3**0.5 * radius**2,
    }
    for shape, area in expected.items():
        plain = draw_pixels(scene_of()).astype(float)
        drawn = draw_pixels(scene_of(Sprite("red", shape, "large", 3, 3))).astype(float)
        alpha = (drawn - plain)[..., 0] / (RGB["red"][0] - plain[..., 0])
        assert alpha.sum() == pytest.approx(area, rel=0.06)


def test_picture_is_the_pixels_and_equal_every_time() -> None:
    scene = scene_of(Sprite("blue", "circle", "small", 0, 5), texture="speckles")
    picture = draw_picture(scene)
    assert picture.mode == "RGB"
    assert picture.size == (SIDE, SIDE)
    np.testing.assert_array_equal(np.asarray(picture), draw_pixels(scene))
