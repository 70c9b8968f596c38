"""The lessons of the base: questions apart and in conversation, with held-out pairs among them."""

from collections import Counter

from components.drawn_world.ask import CAPTION_PROMPT
from components.drawn_world.lessons import LessonParams, LessonsParams, lesson_row
from components.drawn_world.world import HELD_OUT_PAIRS, WorldParams

WORLD = WorldParams(min_objects=1, max_objects=4, word_fraction=0.25)
PARAMS = LessonsParams(
    lessons=(
        LessonParams(num_pictures=10, captions_only=True, world=WORLD),
        LessonParams(num_pictures=1, captions_only=False, world=WORLD),
    ),
    questions_per_picture=12,
    conversation_fraction=0.5,
    blind_fraction=0.1,
)


def test_descriptions_come_first_then_questions_apart_or_in_one_conversation() -> None:
    kinds = Counter()
    for index in range(300):
        _, row, is_shown = lesson_row(0, PARAMS, index)
        turns = [turn for conversation in row for turn in conversation]
        assert sum(question == CAPTION_PROMPT for question, _ in turns) == 1
        assert len(set(turns)) == len(turns) <= 13
        if index < 10:
            assert len(turns) == 1
            continue
        assert len(turns) >= 6
        assert len(row) in (1, len(turns))
        kinds[len(row) == 1, is_shown] += 1
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
