"""Scenes: reproducible one by one, and within the rules of the world."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from components.drawn_world.world import (
    CELL_ATTRIBUTES,
    GRID,
    HELD_OUT_PAIRS,
    Scene,
    Sprite,
    WorldParams,
    cell_labels,
    draw_scene,
    relation,
    scene_rng,
)

WORLD = WorldParams(min_objects=2, max_objects=4, word_fraction=0.5)
indices = st.integers(min_value=0, max_value=10**6)


def scene_at(index: int, stream: str = "instruct", allow_held_out: bool = False) -> Scene:
    return draw_scene(scene_rng(0, stream, index), WORLD, allow_held_out)


@given(indices)
def test_scene_depends_on_seed_stream_and_index_alone(index: int) -> None:
    assert scene_at(index) == scene_at(index)
    assert scene_at(index) != scene_at(index + 1)
    assert scene_at(index) != scene_at(index, stream="captions")


@given(indices)
def test_scene_has_one_thing_per_cell_and_no_pair_twice(index: int) -> None:
    scene = scene_at(index, allow_held_out=True)
    letters = [(scene.word.row, scene.word.column + i) for i in range(3)] if scene.word else []
    cells = [(sprite.row, sprite.column) for sprite in scene.sprites] + letters
    assert len(set(cells)) == len(cells)
    assert all(0 <= row < GRID and 0 <= column < GRID for row, column in cells)
    assert len({sprite.pair for sprite in scene.sprites}) == len(scene.sprites)
    assert WORLD.min_objects <= len(scene.sprites) <= WORLD.max_objects


def test_held_out_pairs_appear_in_half_of_the_test_scenes_and_nowhere_else() -> None:
    def shows_one(scene: Scene) -> bool:
        return any(sprite.pair in HELD_OUT_PAIRS for sprite in scene.sprites)

    assert not any(shows_one(scene_at(index)) for index in range(500))
    share = np.mean(
        [shows_one(scene_at(index, "test", allow_held_out=True)) for index in range(1000)]
    )
    assert abs(share - 0.5) < 0.05


@given(indices)
def test_cell_labels_name_what_stands_in_each_cell_and_where_it_is(index: int) -> None:
    scene = scene_at(index)
    labels = cell_labels(scene).reshape(GRID, GRID, -1)
    colours, shapes, sizes, letters, _, _ = CELL_ATTRIBUTES
    for sprite in scene.sprites:
        colour, shape, size, letter, row, column = labels[sprite.row, sprite.column]
        assert (row, column) == (sprite.row + 1, sprite.column + 1)
        assert (colours[colour - 1], shapes[shape - 1], sizes[size - 1], letter) == (
            sprite.colour,
            sprite.shape,
            sprite.size,
            0,
        )
    if scene.word:
        written = labels[scene.word.row, scene.word.column : scene.word.column + 3, 3]
        assert "".join(letters[value - 1] for value in written) == scene.word.text
    assert (labels[..., :4].sum(axis=-1) > 0).sum() == len(scene.sprites) + (3 if scene.word else 0)


def test_relation_names_every_direction_that_holds() -> None:
    low, high = Sprite("red", "star", "small", 4, 1), Sprite("blue", "star", "small", 2, 1)
    assert list(relation(low, high)) == ["below"]
    assert list(relation(Sprite("red", "star", "small", 0, 0), high)) == ["left of", "above"]


def test_quadrant_splits_the_picture_in_the_middle() -> None:
    assert Sprite("red", "star", "small", 2, 3).quadrant == "top right"
    assert Sprite("red", "star", "small", 3, 2).quadrant == "bottom left"
