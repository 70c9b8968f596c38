"""The demo world: scenes, and how they are drawn at random.

A scene is a grid of 6 × 6 cells. A few sprites stand in cells of their own; some scenes also carry
a three-letter word, one letter per cell. Every draw comes from `numpy.random.default_rng((seed,
stream, index))`: scene `index` of a stream is the same whoever draws it and whenever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from components.params import Params

GRID = 6  # cells per side
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("small", "large")
BACKGROUNDS = ("light", "dark")
TEXTURES = ("plain", "gradient", "stripes", "speckles")
WORDS = ("ant", "bee", "cat", "dog", "elk", "fox", "hen", "jay", "owl", "pig", "rat", "yak")
# pairs that only test scenes contain: a model that answers about them has learnt colour and shape,
# not pairs
HELD_OUT_PAIRS = (("purple", "star"), ("green", "triangle"), ("orange", "circle"))
SEEN_PAIRS = tuple(pair for pair in product(COLOURS, SHAPES) if pair not in HELD_OUT_PAIRS)
# one random stream per purpose, so that no scene of one serves another
STREAMS = {"instruct": 0, "captions": 1, "validation": 2, "test": 3, "pretrain": 4, "tower": 5}
LETTERS = tuple(sorted(set("".join(WORDS))))
PLACES = tuple(str(place + 1) for place in range(GRID))
# labels of a cell: what it shows and where it is (row, column); 0 stands for nothing
CELL_ATTRIBUTES = (COLOURS, SHAPES, SIZES, LETTERS, PLACES, PLACES)


class WorldParams(Params):
    """Settings of the scenes."""

    min_objects: int  # sprites per scene
    max_objects: int  # sprites per scene
    word_fraction: float  # of scenes, carry a written word


@dataclass(frozen=True)
class Sprite:
    """One drawn object; `row` and `column` count cells from the top left."""

    colour: str
    shape: str
    size: str
    row: int
    column: int

    @property
    def pair(self) -> tuple[str, str]:
        return (self.colour, self.shape)

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def quadrant(self) -> str:
        vertical = "top" if self.row < GRID // 2 else "bottom"
        return f"{vertical} {'left' if self.column < GRID // 2 else 'right'}"


@dataclass(frozen=True)
class Word:
    """Three letters in neighbouring cells of one row; the first stands at (`row`, `column`)."""

    text: str
    row: int
    column: int


@dataclass(frozen=True)
class Scene:
    """Sprites in raster order, an optional word and a background."""

    sprites: tuple[Sprite, ...]
    word: Word | None
    background: str
    texture: str
    texture_seed: int

    @property
    def names(self) -> list[str]:
        """Names of the sprites, in their order."""
        return [sprite.name for sprite in self.sprites]


def scene_rng(seed: int, stream: str, index: int) -> np.random.Generator:
    """Return the generator of scene `index` of `stream`, independent of every other scene's."""
    return np.random.default_rng((seed, STREAMS[stream], index))


def draw_scene(rng: np.random.Generator, params: WorldParams, allow_held_out: bool) -> Scene:
    """Draw a random scene; no two sprites share both colour and shape.

    Held-out pairs appear only where allowed.
    """
    # The cells that a word leaves free.
    word = _draw_word(rng) if rng.random() < params.word_fraction else None
    free = list(product(range(GRID), range(GRID)))
    if word:
        for offset in range(len(word.text)):
            free.remove((word.row, word.column + offset))

    # Sprites in raster order.
    count = int(rng.integers(params.min_objects, params.max_objects + 1))
    cells = sorted(free[i] for i in rng.choice(len(free), size=count, replace=False))
    pairs = _draw_pairs(rng, count, allow_held_out)
    sprites = []
    for (colour, shape), (row, column) in zip(pairs, cells, strict=True):
        sprites.append(Sprite(colour, shape, str(rng.choice(SIZES)), row, column))

    background, texture = str(rng.choice(BACKGROUNDS)), str(rng.choice(TEXTURES))
    return Scene(tuple(sprites), word, background, texture, int(rng.integers(0, 2**31)))


def _draw_word(rng: np.random.Generator) -> Word:
    text = str(rng.choice(WORDS))
    return Word(text, int(rng.integers(0, GRID)), int(rng.integers(0, GRID - len(text) + 1)))


def _draw_pairs(
    rng: np.random.Generator, count: int, allow_held_out: bool
) -> list[tuple[str, str]]:
    """Draw `count` different pairs; if held-out ones are allowed, half of the scenes have one."""
    chosen = rng.choice(len(SEEN_PAIRS), size=count, replace=False)
    pairs = [SEEN_PAIRS[i] for i in chosen]
    if allow_held_out and rng.random() < 0.5:
        held_out = HELD_OUT_PAIRS[int(rng.integers(0, len(HELD_OUT_PAIRS)))]
        pairs[int(rng.integers(0, count))] = held_out
    return pairs


def cell_labels(scene: Scene) -> np.ndarray:
    """Label each cell: (cells, attributes) int64, from 1 as in CELL_ATTRIBUTES, 0 for nothing."""
    labels = np.zeros((GRID, GRID, len(CELL_ATTRIBUTES)), dtype=np.int64)
    labels[..., -2:] = np.moveaxis(np.indices((GRID, GRID)), 0, -1) + 1  # row, column

    # A cell holds a sprite or a letter, never both.
    for sprite in scene.sprites:
        labels[sprite.row, sprite.column, :3] = (
            COLOURS.index(sprite.colour) + 1,
            SHAPES.index(sprite.shape) + 1,
            SIZES.index(sprite.size) + 1,
        )
    if scene.word:
        for offset, letter in enumerate(scene.word.text):
            labels[scene.word.row, scene.word.column + offset, 3] = LETTERS.index(letter) + 1
    return labels.reshape(GRID * GRID, -1)


def relation(first: Sprite, second: Sprite) -> Sequence[str]:
    """List the relations that hold from `first` to `second`: left of, right of, above, below."""
    holds = {
        "left of": first.column < second.column,
        "right of": first.column > second.column,
        "above": first.row < second.row,
        "below": first.row > second.row,
    }
    return [name for name, is_true in holds.items() if is_true]
