"""Scenes to conversations: turns of an instruction-tuning file, with and without a picture."""

import numpy as np

from components.drawn_world import ask
from components.drawn_world.describe import full_caption
from components.drawn_world.world import COLOURS, Scene

Turn = tuple[str, str]  # question, answer
SHORT_ANSWER_ROUNDS, RELATION_ROUNDS, CHOICE_ROUNDS = 2, 5, 3  # of `all_questions`
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
    count = int(rng.integers(min_questions, max_questions + 1))
    chosen = [questions[i] for i in rng.permutation(len(questions))[:count]]
    # A word is rare, and three letters are much to learn: it is asked for wherever one stands.
    if scene.word:
        chosen[int(rng.integers(0, len(chosen)))] = questions[0]
    asked = [(question.text, question.answer) for question in chosen]
    turns = list(dict.fromkeys(asked))

    if rng.random() < caption_fraction:
        turns.append((ask.CAPTION_PROMPT, full_caption(scene)))
    return turns


def all_questions(scene: Scene, rng: np.random.Generator) -> list[ask.Question]:
    """Draw about 30 questions; relations and multiple choice more often than a benchmark has.

    A yes or a letter says little, so that these kinds are learnt last (docs/experiments.md). The
    question for the word comes first, if there is one.
    """
    existence = ask.ask_existence(scene, rng, popular=[])
    questions = ask.ask_word(scene)
    questions += [existence[i] for i in rng.permutation(len(existence))[:4]]
    for _ in range(SHORT_ANSWER_ROUNDS):
        questions += ask.ask_short_answers(scene, rng)
    for _ in range(RELATION_ROUNDS):
        questions += ask.ask_relations(scene, rng)
    for _ in range(CHOICE_ROUNDS):
        choices = ask.ask_multiple_choice(scene, rng)
        questions += [choices[i] for i in rng.permutation(len(choices))[:2]]
    return questions + ask.ask_unanswerable(scene, rng)


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
