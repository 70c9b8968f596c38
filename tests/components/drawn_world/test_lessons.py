"""The lessons of the base: questions apart and in conversation, with held-out pairs among them."""

from collections import Counter

from components.drawn_world.ask import CAPTION_PROMPT
from components.drawn_world.exercises import PLACES_QUESTION
from components.drawn_world.lessons import LessonParams, LessonsParams, lesson_row
from components.drawn_world.world import HELD_OUT_PAIRS, WorldParams

WORLD = WorldParams(min_objects=1, max_objects=4, word_fraction=0.25)
FIRST = LessonParams(
    num_pictures=10,
    places_per_picture=4,
    sides_per_picture=0,
    first_sides_per_picture=0,
    second_sides_per_picture=0,
    letters_per_picture=0,
    questions_per_picture=0,
)
SECOND = FIRST.model_copy(
    update={
        "num_pictures": 1,
        "places_per_picture": 1,
        "sides_per_picture": 1,
        "letters_per_picture": 1,
        "questions_per_picture": 12,
    }
)
PARAMS = LessonsParams(
    world=WORLD, lessons=(FIRST, SECOND), conversation_fraction=0.5, blind_fraction=0.1
)
EXERCISES = (PLACES_QUESTION, "which letter is ", " or ")


def is_exercise(question: str) -> bool:
    return any(part in question for part in EXERCISES)


def test_the_first_lesson_describes_and_places() -> None:
    for index in range(10):
        _, row, _ = lesson_row(0, PARAMS, index)
        questions = [question for ((question, _),) in row]
        assert set(questions) == {CAPTION_PROMPT, PLACES_QUESTION}
        assert questions.count(CAPTION_PROMPT) == 1


def test_then_questions_stand_apart_or_in_one_conversation_and_exercises_always_apart() -> None:
    kinds = Counter()
    for index in range(10, 300):
        _, row, is_shown = lesson_row(0, PARAMS, index)
        asked, exercises = [], []
        for conversation in row:
            (exercises if is_exercise(conversation[0][0]) else asked).append(conversation)

        # one of the places, one letter, at most two sides of one pair
        assert all(len(conversation) == 1 for conversation in exercises)
        assert 2 <= len(exercises) <= 4
        turns = [turn for conversation in asked for turn in conversation]
        assert sum(question == CAPTION_PROMPT for question, _ in turns) == 1
        assert not any(is_exercise(question) for question, _ in turns)
        assert 6 <= len(set(turns)) == len(turns) <= 13
        assert len(asked) in (1, len(turns))
        kinds[len(asked) == 1, is_shown] += 1
    # half of them in conversation, a tenth blind
    assert 110 < kinds[True, True] + kinds[True, False] < 180
    assert 10 < kinds[True, False] + kinds[False, False] < 50


def test_a_description_may_stand_anywhere_and_held_out_pairs_are_seen() -> None:
    names = {" ".join(pair) for pair in HELD_OUT_PAIRS}
    seen, places = set(), set()
    for index in range(10, 200):
        _, row, _ = lesson_row(0, PARAMS, index)
        for conversation in row:
            for place, (question, answer) in enumerate(conversation):
                if question == CAPTION_PROMPT and len(conversation) > 1:
                    places.add(place)
                seen |= {name for name in names if name in answer}
    assert seen == names
    assert len(places) > 5


def test_a_row_is_a_function_of_seed_and_index() -> None:
    for index in (3, 50):
        first, again = lesson_row(0, PARAMS, index), lesson_row(0, PARAMS, index)
        assert (first[0] == again[0]).all()
        assert first[1:] == again[1:]
        assert lesson_row(1, PARAMS, index)[1] != first[1]
