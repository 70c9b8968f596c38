"""Scenes to pixels: sprites and letters rendered once by Pillow, composed cell by cell."""

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from components.drawn_world.world import GRID, Scene

CELL = 16  # pixels per cell side
SIDE = GRID * CELL  # pixels per picture side
OVERSAMPLING = 8  # sprites are drawn this much larger and reduced, for smooth edges
RGB = {
    "red": (226, 38, 42),
    "green": (34, 160, 64),
    "blue": (40, 84, 232),
    "yellow": (250, 214, 28),
    "purple": (148, 44, 190),
    "orange": (250, 128, 20),
}
BACKGROUND_RGB = {"light": (236, 232, 222), "dark": (44, 48, 60)}
INK_RGB = {"light": (24, 24, 28), "dark": (244, 244, 240)}
RADIUS = {"small": 4.5, "large": 7.2}  # pixels


def draw_picture(scene: Scene) -> Image.Image:
    """Draw the scene as an RGB picture of `SIDE` × `SIDE` pixels."""
    return Image.fromarray(draw_pixels(scene))


def draw_pixels(scene: Scene) -> np.ndarray:
    """Draw the scene as uint8 pixels (height, width, 3)."""
    canvas = _background(scene)
    for sprite in scene.sprites:
        alpha = _sprite_alpha(sprite.shape, sprite.size)
        _paste(canvas, alpha, RGB[sprite.colour], sprite.row, sprite.column)

    # The ink of a word shows against its background.
    if scene.word:
        for offset, letter in enumerate(scene.word.text):
            column = scene.word.column + offset
            _paste(canvas, _letter_alpha(letter), INK_RGB[scene.background], scene.word.row, column)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _background(scene: Scene) -> np.ndarray:
    """Draw the empty scene, float pixels (height, width, 3): a tinted base colour and a texture."""
    rng = np.random.default_rng(scene.texture_seed)
    colour = np.array(BACKGROUND_RGB[scene.background], dtype=np.float64)
    base = colour + rng.uniform(-12, 12, size=3)

    # Levels of brightness to add, (height, width).
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    if scene.texture == "gradient":
        angle = rng.uniform(0, 2 * math.pi)
        across, down = columns / SIDE - 0.5, rows / SIDE - 0.5
        shade = 14 * (across * math.cos(angle) + down * math.sin(angle))
    elif scene.texture == "stripes":
        phase = (columns * rng.integers(-1, 2) + rows) * 2 * math.pi
        shade = 5.0 * np.sin(phase / rng.uniform(6, 14))
    elif scene.texture == "speckles":
        shade = rng.normal(0, 5, size=(SIDE, SIDE))
    else:
        shade = np.zeros((SIDE, SIDE))
    return base + shade[..., None]


def _paste(
    canvas: np.ndarray, alpha: np.ndarray, rgb: tuple[int, int, int], row: int, column: int
) -> None:
    """Blend `rgb` into one cell of `canvas` by `alpha` (CELL, CELL, 1) in [0, 1]."""
    cell = canvas[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
    cell += alpha * (np.array(rgb, dtype=np.float64) - cell)


@cache
def _sprite_alpha(shape: str, size: str) -> np.ndarray:
    """Render the coverage (CELL, CELL, 1) of a sprite, in [0, 1]."""
    mask = Image.new("L", (CELL * OVERSAMPLING, CELL * OVERSAMPLING), 0)
    pen, centre, radius = ImageDraw.Draw(mask), CELL * OVERSAMPLING / 2, RADIUS[size] * OVERSAMPLING

    # A square of the same radius would look larger than the circle.
    if shape == "circle":
        pen.ellipse((centre - radius, centre - radius, centre + radius, centre + radius), fill=255)
    elif shape == "square":
        half = radius * 0.86
        pen.rectangle((centre - half, centre - half, centre + half, centre + half), fill=255)
    else:
        pen.polygon(_outline(shape, centre, radius), fill=255)
    return _reduced(mask)


def _outline(shape: str, centre: float, radius: float) -> list[tuple[float, float]]:
    """List the corners of a triangle, or of a five-pointed star."""
    # The star's inner corners lie at 0.42 of its radius.
    radii = [radius] * 3 if shape == "triangle" else [radius, 0.42 * radius] * 5

    corners = []
    for number, r in enumerate(radii):
        angle = 2 * math.pi * number / len(radii) - math.pi / 2
        corners.append((centre + r * math.cos(angle), centre + r * math.sin(angle)))
    return corners


@cache
def _letter_alpha(letter: str) -> np.ndarray:
    """Render the coverage (CELL, CELL, 1) of a capital letter in Pillow's own font, in [0, 1]."""
    mask = Image.new("L", (CELL * OVERSAMPLING, CELL * OVERSAMPLING), 0)
    middle = CELL * OVERSAMPLING / 2
    font = ImageFont.load_default(size=14 * OVERSAMPLING)
    ImageDraw.Draw(mask).text(
        (middle, middle), letter.upper(), fill=255, font=font, anchor="mm", stroke_width=4
    )
    return _reduced(mask)


def _reduced(mask: Image.Image) -> np.ndarray:
    small = mask.resize((CELL, CELL), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64)[..., None] / 255
