"""Every statement about a scene, held against an oracle that reads words and scene by itself.

The oracle parses sentences with regular expressions and counts sprites; it shares no code with what
makes them.
"""

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from components.drawn_world import ask
from components.drawn_world.contrast import contrast_pairs
from components.drawn_world.converse import all_questions, picture_turns, text_only_turns
from components.drawn_world.describe import captions, full_caption, indefinite, phrases
from components.drawn_world.world import HELD_OUT_PAIRS, Scene, WorldParams, draw_scene, scene_rng

WORLD = WorldParams(min_objects=2, max_objects=4, word_fraction=0.4)
NUMBERS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4}
OBJECT = r"(?:(small|large) )?(red|green|blue|yellow|purple|orange) (circle|square|triangle|star)"
HALF_NAMED = (  # or whole
    r"(?:(small|large) )?(?:(red|green|blue|yellow|purple|orange) )?"
    r"(circle|square|triangle|star|object)\b"
)
RELATION = r"(left of|right of|above|below)"
drawn = st.integers(min_value=0, max_value=10**6)


def scene_and_rng(index: int) -> tuple[Scene, np.random.Generator]:
    rng = scene_rng(3, "test", index)
    return draw_scene(rng, WORLD, allow_held_out=True), rng


def find(scene: Scene, colour: str, shape: str) -> list:
    return [sprite for sprite in scene.sprites if (sprite.colour, sprite.shape) == (colour, shape)]


def holds(scene: Scene, first: tuple[str, str], name: str, second: tuple[str, str]) -> bool:
    for a in find(scene, *first):
        for b in find(scene, *second):
            truth = {
                "left of": a.column < b.column,
                "right of": a.column > b.column,
                "above": a.row < b.row,
                "below": a.row > b.row,
            }
            if truth[name]:
                return True
    return False


def is_true(scene: Scene, caption: str) -> bool:
    """Do all sizes, colours, shapes, quadrants, relations and the word of a caption hold?"""
    for match in re.finditer(rf"{HALF_NAMED}(?: in the (top|bottom) (left|right))?", caption):
        size, colour, shape, vertical, horizontal = match.groups()
        fits = [sprite for sprite in scene.sprites if size in (None, sprite.size)]
        fits = [sprite for sprite in fits if colour in (None, sprite.colour)]
        fits = [sprite for sprite in fits if shape in ("object", sprite.shape)]
        if vertical:
            fits = [
                s
                for s in fits
                if (s.row < 3) == (vertical == "top") and (s.column < 3) == (horizontal == "left")
            ]
        if not fits:
            return False
    for match in re.finditer(rf"(?={OBJECT} {RELATION} an? {OBJECT})", caption):
        _, colour, shape, name, _, other_colour, other_shape = match.groups()
        if not holds(scene, (colour, shape), name, (other_colour, other_shape)):
            return False
    number = re.match(r"(two|three|four) shapes", caption)
    if number and NUMBERS[number[1]] != len(scene.sprites):
        return False
    word = re.search(r"(?:the word |^)(\w+)$", caption)
    return not word or (scene.word is not None and scene.word.text == word[1])


def right_answer(scene: Scene, question: str) -> str:
    """What a careful reader answers."""
    if match := re.match(r"what colour is the (\w+)\?", question):
        found = [s.colour for s in scene.sprites if s.shape == match[1]]
        return found[0] if found else "unanswerable"
    if match := re.match(r"what shape is the (\w+) object\?", question):
        found = [s.shape for s in scene.sprites if s.colour == match[1]]
        return found[0] if found else "unanswerable"
    if match := re.match(r"how many (\w+)s are there\?", question):
        count = sum(match[1] in ("object", s.shape) for s in scene.sprites)
        return {number: name for name, number in NUMBERS.items()}[count]
    if match := re.match(rf"where is the {OBJECT}\?", question):
        sprite = find(scene, match[2], match[3])[0]
        return ("top" if sprite.row < 3 else "bottom") + (
            " left" if sprite.column < 3 else " right"
        )
    if match := re.match(rf"is there an? {OBJECT}\?", question):
        return "yes" if find(scene, match[2], match[3]) else "no"
    if match := re.match(rf"is the {OBJECT} {RELATION} the {OBJECT}\?", question):
        return "yes" if holds(scene, (match[2], match[3]), match[4], (match[6], match[7])) else "no"
    assert question == "what word is written?"
    return scene.word.text if scene.word else "unanswerable"


def right_choice(scene: Scene, question: str) -> str:
    stem, options = question.split("? ", 1)
    letters = {text: letter for letter, text in re.findall(r"([A-D])\. (\w+)", options)}
    return letters[right_answer(scene, stem + "?")]


@given(drawn)
def test_captions_are_true_and_name_every_sprite(index: int) -> None:
    scene, rng = scene_and_rng(index)
    texts = captions(scene, rng)
    assert len(texts) == 5
    assert texts[0] == full_caption(scene)
    for text in texts:
        assert is_true(scene, text), text
        assert all(sprite.name in text for sprite in scene.sprites)


@given(drawn, drawn)
def test_phrases_are_all_that_is_true_of_their_forms(index: int, other: int) -> None:
    """A phrase of another scene is true of this one just if it is in its list."""
    scene, another = scene_and_rng(index)[0], scene_and_rng(other)[0]
    listed = phrases(scene)
    assert len(set(listed)) == len(listed)
    for text in listed:
        assert is_true(scene, text), text
    for text in phrases(another):
        assert is_true(scene, text) == (text in listed), text


@given(drawn)
@settings(max_examples=200)
def test_answers_are_right(index: int) -> None:
    scene, rng = scene_and_rng(index)
    popular = [("red", "circle"), ("blue", "square")]
    questions = (
        all_questions(scene, rng)
        + ask.ask_existence(scene, rng, popular)
        + ask.ask_unanswerable(scene, rng)
    )
    for question in questions + ask.ask_relations(scene, rng) + ask.ask_multiple_choice(scene, rng):
        oracle = right_choice if question.benchmark == "multiple_choice" else right_answer
        assert question.answer == oracle(scene, question.text), question


@given(drawn)
def test_questions_about_colour_and_shape_have_one_answer(index: int) -> None:
    scene, rng = scene_and_rng(index)
    for question in ask.ask_short_answers(scene, rng):
        if match := re.match(r"what colour is the (\w+)\?", question.text):
            assert sum(sprite.shape == match[1] for sprite in scene.sprites) == 1


@given(drawn)
def test_false_captions_are_false_and_true_ones_true(index: int) -> None:
    scene, rng = scene_and_rng(index)
    for subset, (caption, negative) in contrast_pairs(scene, rng).items():
        assert is_true(scene, caption), (subset, caption)
        assert not is_true(scene, negative), (subset, negative)


@given(drawn)
def test_relations_come_as_a_yes_and_a_no(index: int) -> None:
    scene, rng = scene_and_rng(index)
    assert sorted(question.answer for question in ask.ask_relations(scene, rng)) == ["no", "yes"]


@given(drawn)
def test_rotations_put_the_answer_at_every_letter(index: int) -> None:
    scene, rng = scene_and_rng(index)
    questions = ask.ask_multiple_choice(scene, rng)
    assert sorted(question.answer for question in questions) in ([], ["A", "B", "C", "D"])
    assert len({frozenset(question.choices) for question in questions}) <= 1


@given(drawn)
def test_adversarial_absentees_are_made_of_what_the_scene_shows(index: int) -> None:
    scene, rng = scene_and_rng(index)
    for question in ask.ask_existence(scene, rng, popular=[]):
        if question.kind == "adversarial" and question.answer == "no":
            colour, shape = re.search(OBJECT, question.text).groups()[1:]
            assert colour in {s.colour for s in scene.sprites}
            assert shape in {s.shape for s in scene.sprites}


def test_training_conversations_never_name_a_held_out_pair() -> None:
    names = [" ".join(pair) for pair in HELD_OUT_PAIRS]
    for index in range(300):
        rng = scene_rng(0, "instruct", index)
        scene = draw_scene(rng, WORLD, allow_held_out=False)
        said = " ".join(text for turn in picture_turns(scene, rng, 0.5, 1, 8) for text in turn)
        assert not any(name in said for name in names)


def test_conversations_respect_their_length_and_repeat_nothing() -> None:
    for index in range(100):
        scene, rng = scene_and_rng(index)
        turns = picture_turns(scene, rng, caption_fraction=1.0, min_questions=1, max_questions=5)
        assert turns[-1] == (ask.CAPTION_PROMPT, full_caption(scene))
        assert 2 <= len(turns) <= 6
        assert len(set(turns)) == len(turns)
        assert 1 <= len(text_only_turns(rng)) <= 3


def test_a_word_is_always_asked_for() -> None:
    for index in range(200):
        scene, rng = scene_and_rng(index)
        turns = picture_turns(scene, rng, caption_fraction=0.0, min_questions=6, max_questions=10)
        if scene.word:
            assert (ask.WORD_QUESTION, scene.word.text) in turns


def test_popular_pairs_are_the_most_frequent_in_order() -> None:
    scenes = [scene_and_rng(index)[0] for index in range(50)]
    counts: dict[tuple[str, str], int] = {}
    for sprite in (sprite for scene in scenes for sprite in scene.sprites):
        counts[sprite.pair] = counts.get(sprite.pair, 0) + 1
    popular = ask.popular_pairs(scenes, 5)
    assert [counts[pair] for pair in popular] == sorted(counts.values(), reverse=True)[:5]


def test_article_fits_the_noun() -> None:
    assert (indefinite("orange star"), indefinite("red star")) == ("an orange star", "a red star")
