"""Exercises say what is true of the scene."""

import re

import numpy as np
import pytest

from components.drawn_world.exercises import (
    FIRST_SIDES,
    SECOND_SIDES,
    ask_letter,
    ask_one_side,
    ask_places,
    ask_sides,
)
from components.drawn_world.world import Scene, WorldParams, draw_scene, scene_rng

WORLD = WorldParams(min_objects=1, max_objects=5, word_fraction=0.25)
NUMBERS = ["one", "two", "three", "four", "five", "six"]


def scenes(count: int) -> list[tuple[Scene, np.random.Generator]]:
    found = []
    for index in range(count):
        rng = scene_rng(3, "pretrain", index)
        found.append((draw_scene(rng, WORLD, allow_held_out=True), rng))
    return found


def test_places_name_column_and_row_of_every_object_in_any_order() -> None:
    is_raster = []
    for scene, rng in scenes(60):
        said = ask_places(scene, rng).answer.split(", ")
        true = {}
        for sprite in scene.sprites:
            true[f"{sprite.colour} {sprite.shape}"] = (sprite.column, sprite.row)

        found = {}
        for part in said:
            name, column, row = part.rsplit(" ", 2)
            found[name] = (NUMBERS.index(column), NUMBERS.index(row))
        assert found == true
        assert len(said) == len(scene.sprites)
        is_raster.append(list(found) == scene.names)
    assert 0.1 < np.mean(is_raster) < 0.8  # pictures of one object have one order


def test_sides_compare_columns_and_rows_of_different_objects() -> None:
    num_asked = 0
    for scene, rng in scenes(60):
        sprites = {sprite.name: sprite for sprite in scene.sprites}
        questions = ask_sides(scene, rng, num_pairs=2)
        assert len(questions) <= 4
        for question in questions:
            pattern = r"is the (.+) (left|above) or (right of|below) the (.+)\?"
            match = re.fullmatch(pattern, question.text)
            assert match
            first, second = sprites[match[1]], sprites[match[4]]
            if match[2] == "left":
                assert question.answer == ("left" if first.column < second.column else "right")
                assert first.column != second.column
            else:
                assert question.answer == ("above" if first.row < second.row else "below")
                assert first.row != second.row
            num_asked += 1
    assert num_asked > 100


@pytest.mark.parametrize("sides", [FIRST_SIDES, SECOND_SIDES])
def test_one_side_asks_for_the_sides_given_and_is_true_as_often_as_false(
    sides: tuple[str, str],
) -> None:
    answers = []
    for scene, rng in scenes(150):
        sprites = {sprite.name: sprite for sprite in scene.sprites}
        for question in ask_one_side(scene, rng, sides):
            pattern = rf"is the (\w+ \w+) ({'|'.join(sides)}) the (\w+ \w+)\?"
            match = re.fullmatch(pattern, question.text)
            assert match
            first, second = sprites[match[1]], sprites[match[3]]
            is_true = {
                "left of": first.column < second.column,
                "right of": first.column > second.column,
                "above": first.row < second.row,
                "below": first.row > second.row,
            }
            assert question.answer == ("yes" if is_true[match[2]] else "no")
            answers.append(is_true[match[2]])
    assert len(answers) > 150
    assert 0.4 < np.mean(answers) < 0.6


@pytest.mark.parametrize("seed", range(20))
def test_a_letter_stands_before_its_option(seed: int) -> None:
    question = ask_letter(np.random.default_rng(seed))
    wanted = question.text.removeprefix("which letter is ").split("?")[0]
    assert f"{question.answer}. {wanted}" in question.text
    assert question.text.count(". ") == 4
