"""Scenes to conversations: turns of an instruction-tuning file, with and without a picture."""

import numpy as np

from components.drawn_world import ask
from components.drawn_world.describe import full_caption
from components.drawn_world.world import COLOURS, Scene

Turn = tuple[str, str]  # question, answer
SIDES = {"triangle": "three", "square": "four"}


def picture_turns(
    scene: Scene,
    rng: np.random.Generator,
    caption_fraction: float,
    min_questions: int,
    max_questions: int,
) -> list[Turn]:
    """Ask questions of all kinds in random order, equal ones once, and for some a description.

    The description comes last, because whoever has described the picture can answer the rest
    without looking at it again.
    """
    questions = all_questions(scene, rng)
    order = rng.permutation(len(questions))
    chosen = [questions[i] for i in order[: int(rng.integers(min_questions, max_questions + 1))]]

    # A word is rare, and three letters are much to learn: it is asked for wherever one stands.
    for question in ask.ask_word(scene):
        chosen[int(rng.integers(0, len(chosen)))] = question
    asked = [(question.text, question.answer) for question in chosen]
    turns = list(dict.fromkeys(asked))

    if rng.random() < caption_fraction:
        turns.append((ask.CAPTION_PROMPT, full_caption(scene)))
    return turns


def all_questions(scene: Scene, rng: np.random.Generator) -> list[ask.Question]:
    """Draw questions in the proportions of training: two rounds of short answers, some others."""
    # Every draw stays in this place: another order would give other scenes.
    existence = ask.ask_existence(scene, rng, popular=[])
    choices = ask.ask_multiple_choice(scene, rng)
    questions = ask.ask_short_answers(scene, rng) + ask.ask_short_answers(scene, rng)
    questions += [existence[i] for i in rng.permutation(len(existence))[:3]]
    relations = ask.ask_relations(scene, rng)
    if relations:
        questions.append(relations[int(rng.integers(0, 2))])
    if choices:
        questions.append(choices[int(rng.integers(0, 4))])
    questions += ask.ask_word(scene)
    if rng.random() < 0.4:
        questions += ask.ask_unanswerable(scene, rng)
    return questions


def text_only_turns(rng: np.random.Generator) -> list[Turn]:
    """Make small talk about the words of the world, without a picture."""
    opposite = str(rng.choice(sorted(ask.OPPOSITES)))
    shape = str(rng.choice(sorted(SIDES)))
    colours = [COLOURS[i] for i in rng.permutation(len(COLOURS))[:2]]

    turns = [
        (f"what is the opposite of {opposite}?", ask.OPPOSITES[opposite]),
        (f"how many sides does a {shape} have?", SIDES[shape]),
        (f"which comes first in the alphabet, {colours[0]} or {colours[1]}?", min(colours)),
    ]
    return [turns[i] for i in rng.permutation(len(turns))[: int(rng.integers(1, 4))]]
