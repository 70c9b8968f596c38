"""Questions that no benchmark asks: steps towards those that one asks, for a model that learns.

Whether one object is left of another takes three steps: find both, compare, and say yes or no. A
model that starts from nothing finds none of them by itself, since a right first step alone changes
no answer (docs/experiments.md). So each step has an exercise whose every token says something.
"""

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from components.drawn_world.ask import LETTERS, OPPOSITES, Question, draw_two, with_options
from components.drawn_world.world import COLOURS, SHAPES, Scene, relation

PLACES_QUESTION = "where is what?"
PLACE_NAMES = ("one", "two", "three", "four", "five", "six")  # of columns and rows
FIRST_SIDES, SECOND_SIDES = ("left of", "above"), ("right of", "below")


def ask_places(scene: Scene, rng: np.random.Generator) -> Question:
    """Ask for column and row of every object; in any order, so that each is found by its name."""
    places = []
    for i in rng.permutation(len(scene.sprites)):
        sprite = scene.sprites[i]
        places.append(f"{sprite.name} {PLACE_NAMES[sprite.column]} {PLACE_NAMES[sprite.row]}")
    return Question("exercise", "places", PLACES_QUESTION, ", ".join(places))


def ask_sides(scene: Scene, rng: np.random.Generator, num_pairs: int) -> list[Question]:
    """Ask on which side of an object another one is: left or right of it, above or below it."""
    pairs = list(permutations(scene.sprites, 2))
    questions = []
    for i in rng.permutation(len(pairs))[:num_pairs]:
        first, second = pairs[i]
        true = relation(first, second)
        for side, other in zip(FIRST_SIDES, SECOND_SIDES, strict=True):
            # Objects in one column are neither left nor right of each other.
            if side in true or other in true:
                answer = side if side in true else other
                text = f"is the {first.name} {side.split()[0]} or {other} the {second.name}?"
                questions.append(Question("exercise", "side", text, answer.split()[0]))
    return questions


def ask_one_side(scene: Scene, rng: np.random.Generator, sides: Sequence[str]) -> list[Question]:
    """Ask whether an object is on a side of another, for one side of each axis: yes or no.

    As long as both sides of an axis are asked for evenly, neither the place nor the word alone says
    anything of the answer, and a model does not begin to learn it.
    """
    if len(scene.sprites) < 2:
        return []
    first, second = draw_two(scene, rng)
    true = relation(first, second)

    questions = []
    for side in sides:
        if side in true or OPPOSITES[side] in true:
            text = f"is the {first.name} {side} the {second.name}?"
            answer = "yes" if side in true else "no"
            questions.append(Question("exercise", "one side", text, answer))
    return questions


def ask_letter(rng: np.random.Generator) -> Question:
    """Ask which letter stands before an option; no picture is needed."""
    words = COLOURS if rng.random() < 0.5 else SHAPES
    options = [words[i] for i in rng.permutation(len(words))[: len(LETTERS)]]
    letter = int(rng.integers(0, len(LETTERS)))
    text = with_options(f"which letter is {options[letter]}?", options)
    return Question("exercise", "letter", text, LETTERS[letter])
