"""Lessons of a model that starts from nothing: scenes without end, and texts of the world."""

from collections.abc import Sequence

import numpy as np

from components.drawn_world.ask import CAPTION_PROMPT
from components.drawn_world.converse import Turn, all_questions, text_only_turns
from components.drawn_world.describe import captions, full_caption
from components.drawn_world.draw import draw_pixels
from components.drawn_world.world import WorldParams, cell_labels, draw_scene, scene_rng
from components.params import Params

# so that the tokenizer knows the words of the paper's prompt
SUMMARY_PROMPT = "Summarize the image in a few words."
TOWER_WORD_FRACTION = 0.5  # of scenes


class LessonParams(Params):
    """A stretch of training on scenes of one kind."""

    num_pictures: int
    captions_only: bool  # ask for nothing but the description: the densest signal there is
    world: WorldParams


def lesson_of(lessons: Sequence[LessonParams], index: int) -> LessonParams:
    """Find the lesson of training picture `index`; the last one has no end."""
    for lesson in lessons:
        if index < lesson.num_pictures:
            return lesson
        index -= lesson.num_pictures
    return lessons[-1]


def lesson_row(
    seed: int, lessons: Sequence[LessonParams], index: int, blind_fraction: float
) -> tuple[np.ndarray, list[Turn], bool]:
    """Draw picture `index` (height, width, 3) uint8, with its questions and answers.

    The third value is whether the picture is shown at all; some questions are asked blind.
    """
    lesson = lesson_of(lessons, index)
    rng = scene_rng(seed, "pretrain", index)
    scene = draw_scene(rng, lesson.world, allow_held_out=False)

    questions = [] if lesson.captions_only else all_questions(scene, rng)
    turns = [(question.text, question.answer) for question in questions]
    turns.append((CAPTION_PROMPT, full_caption(scene)))
    # Equal questions once: packed side by side they would count twice.
    turns = list(dict.fromkeys(turns))
    return draw_pixels(scene), turns, bool(rng.random() >= blind_fraction)


def tower_row(seed: int, world: WorldParams, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw picture `index` of the tower's own stream, (height, width, 3) and (cells, attributes).

    The second value labels what the cells show.
    """
    rng = scene_rng(seed, "tower", index)
    # More words than in the lessons, where letters are rare.
    wordy = world.model_copy(update={"word_fraction": TOWER_WORD_FRACTION})
    scene = draw_scene(rng, wordy, allow_held_out=False)
    return draw_pixels(scene), cell_labels(scene)


def tokenizer_texts(seed: int, world: WorldParams, num_scenes: int) -> list[str]:
    """Write texts to train the tokenizer on: chats and captions of training scenes."""
    texts = [SUMMARY_PROMPT]
    for index in range(num_scenes):
        rng = scene_rng(seed, "pretrain", index)
        scene = draw_scene(rng, world, allow_held_out=False)

        # Chats as the template writes them, then captions by themselves.
        turns = [(question.text, question.answer) for question in all_questions(scene, rng)]
        turns += text_only_turns(rng)
        for question, answer in turns:
            texts.append(f"USER: \n{question} ASSISTANT: {answer}")
        texts += captions(scene, rng)
        texts.append(f"USER: \n{CAPTION_PROMPT} ASSISTANT: {full_caption(scene)}")
    return texts
