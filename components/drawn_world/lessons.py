"""Lessons of a model that starts from nothing: scenes without end, and texts of the world."""

from collections.abc import Sequence

import numpy as np

from components.drawn_world.ask import CAPTION_PROMPT
from components.drawn_world.converse import (
    Turn,
    all_questions,
    picture_turns,
    text_only_turns,
)
from components.drawn_world.describe import captions, full_caption
from components.drawn_world.draw import draw_pixels
from components.drawn_world.exercises import (
    FIRST_SIDES,
    SECOND_SIDES,
    ask_letter,
    ask_one_side,
    ask_places,
    ask_sides,
)
from components.drawn_world.world import (
    Scene,
    WorldParams,
    cell_labels,
    draw_scene,
    scene_rng,
)
from components.params import Params

# so that the tokenizer knows the words of the paper's prompt
SUMMARY_PROMPT = "Summarize the image in a few words."
TOWER_WORD_FRACTION = 0.5  # of scenes


Conversation = tuple[Turn, ...]
Row = list[Conversation]


class LessonParams(Params):
    """A stretch of training: what is asked about each of its pictures."""

    num_pictures: int
    places_per_picture: int  # exercises: all objects with column and row, each time in other order
    sides_per_picture: int  # exercises: pairs of objects, which is left or right, above or below
    first_sides_per_picture: int  # exercises: pairs, whether left or not, whether above or not
    second_sides_per_picture: int  # exercises: pairs, whether right or not, whether below or not
    letters_per_picture: int  # exercises: which letter stands before an option
    questions_per_picture: int  # of the kinds that benchmarks ask


class LessonsParams(Params):
    """All lessons, and how pictures are asked about."""

    world: WorldParams
    lessons: tuple[LessonParams, ...]
    conversation_fraction: float  # of rows, whose turns follow each other
    blind_fraction: float  # of rows, ask without the picture, so that a blind model guesses well


def lesson_of(lessons: Sequence[LessonParams], index: int) -> LessonParams:
    """Find the lesson of training picture `index`; the last one has no end."""
    for lesson in lessons:
        if index < lesson.num_pictures:
            return lesson
        index -= lesson.num_pictures
    return lessons[-1]


def lesson_row(seed: int, params: LessonsParams, index: int) -> tuple[np.ndarray, Row, bool]:
    """Draw picture `index` (height, width, 3) uint8, with conversations about it.

    Questions stand apart or in one conversation, exercises always apart. The third value is whether
    the picture is shown at all; some rows are asked blind.
    """
    lesson = lesson_of(params.lessons, index)
    rng = scene_rng(seed, "pretrain", index)
    # A base has seen all there is, as a web-scale one has: pairs that are held out later, too.
    scene = draw_scene(rng, params.world, allow_held_out=True)

    # Of questions that are equal, one.
    turns = list(dict.fromkeys(lesson_turns(lesson, scene, rng)))
    row: Row = [(turn,) for turn in turns]
    # In a conversation in any order, so that later turns are read as well as first ones.
    if rng.random() < params.conversation_fraction:
        row = [tuple(turns[i] for i in rng.permutation(len(turns)))]

    # Exercises stand apart: whoever has said where everything is need not look again.
    row += [(turn,) for turn in dict.fromkeys(lesson_exercises(lesson, scene, rng))]
    return draw_pixels(scene), row, bool(rng.random() >= params.blind_fraction)


def lesson_turns(lesson: LessonParams, scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Ask for the description, and as benchmarks ask."""
    turns = [(CAPTION_PROMPT, full_caption(scene))]
    count = lesson.questions_per_picture
    if count:
        turns += picture_turns(
            scene, rng, caption_fraction=0, min_questions=count, max_questions=count
        )
    return turns


def lesson_exercises(lesson: LessonParams, scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Set the exercises about a scene."""
    exercises = [ask_places(scene, rng) for _ in range(lesson.places_per_picture)]
    exercises += ask_sides(scene, rng, lesson.sides_per_picture)
    exercises += [ask_letter(rng) for _ in range(lesson.letters_per_picture)]
    for _ in range(lesson.first_sides_per_picture):
        exercises += ask_one_side(scene, rng, FIRST_SIDES)
    for _ in range(lesson.second_sides_per_picture):
        exercises += ask_one_side(scene, rng, SECOND_SIDES)
    return [(exercise.text, exercise.answer) for exercise in exercises]


def tower_row(seed: int, world: WorldParams, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw picture `index` of the tower's own stream, (height, width, 3) and (cells, attributes).

    The second value labels what the cells show.
    """
    rng = scene_rng(seed, "tower", index)
    # More words than in the lessons, where letters are rare.
    wordy = world.model_copy(update={"word_fraction": TOWER_WORD_FRACTION})
    scene = draw_scene(rng, wordy, allow_held_out=True)
    return draw_pixels(scene), cell_labels(scene)


def tokenizer_texts(seed: int, world: WorldParams, num_scenes: int) -> list[str]:
    """Write texts to train the tokenizer on: chats and captions of training scenes."""
    texts = [SUMMARY_PROMPT]
    for index in range(num_scenes):
        rng = scene_rng(seed, "pretrain", index)
        scene = draw_scene(rng, world, allow_held_out=False)

        # Chats as the template writes them, then captions by themselves.
        questions = [*all_questions(scene, rng), ask_places(scene, rng), ask_letter(rng)]
        questions += ask_sides(scene, rng, num_pairs=1)
        turns = [(question.text, question.answer) for question in questions]
        turns += text_only_turns(rng)
        for question, answer in turns:
            texts.append(f"USER: \n{question} ASSISTANT: {answer}")
        texts += captions(scene, rng)
        texts.append(f"USER: \n{CAPTION_PROMPT} ASSISTANT: {full_caption(scene)}")
    return texts
