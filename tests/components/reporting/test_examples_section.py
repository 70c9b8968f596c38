"""Examples are drawn by the rule that the page states."""

import random
from collections import Counter

from components.reporting import examples_section as examples
from components.reporting.examples_section import Query
from components.reporting.metric_tables import SYSTEMS
from tests.components.reporting.results import answers, captions

OUTCOMES = {
    "q1": ({"compressed": True, "uncompressed": True}, "both"),
    "q2": ({"uncompressed": True}, "uncompressed"),
    "q3": ({"compressed": True}, "compressed"),
    "q4": ({"blind": True}, "neither"),
    "q5": ({"compressed": True, "uncompressed": True}, "both"),
}
ROWS = [row for question, (right, _) in OUTCOMES.items() for row in answers(question, right)]


def test_every_question_is_in_the_box_of_its_outcome() -> None:
    boxes = examples.outcome_boxes(ROWS, seed=0, per_box=10)
    assert {box.name: {example.question_id for example in box.drawn} for box in boxes} == {
        name: {question for question, (_, outcome) in OUTCOMES.items() if outcome == name}
        for name in ("both", "uncompressed", "compressed", "neither")
    }
    assert sum(box.total for box in boxes) == len(OUTCOMES)


def test_boxes_do_not_depend_on_the_order_of_the_answers() -> None:
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    assert examples.outcome_boxes(shuffled, 0, 1) == examples.outcome_boxes(ROWS, 0, 1)


def test_example_holds_the_answers_of_every_system() -> None:
    (example,) = examples.to_examples(answers("q", {"compressed": True}))
    assert list(example.answers) == list(SYSTEMS)
    assert example.answers["compressed"] == examples.Answer("compressed", "red", True)
    assert example.answers["blind"] == examples.Answer("blind", "blue", False)


def test_drawing_takes_every_benchmark_before_a_second_of_any() -> None:
    rows = [
        row
        for benchmark, count in (("existence", 30), ("relations", 5), ("word_reading", 1))
        for number in range(count)
        for row in answers(f"{benchmark} {number}", {}, benchmark=benchmark)
    ]
    drawn = examples.draw(examples.to_examples(rows), "0", 5)
    assert {example.benchmark for example in drawn[:3]} == {
        "existence",
        "relations",
        "word_reading",
    }
    assert Counter(example.benchmark for example in drawn) == {
        "existence": 2,
        "relations": 2,
        "word_reading": 1,
    }


def test_drawing_depends_on_the_seed() -> None:
    rows = [row for number in range(50) for row in answers(f"{number}", {})]
    found = examples.to_examples(rows)
    assert examples.draw(found, "0", 5) == examples.draw(found, "0", 5)
    assert examples.draw(found, "0", 5) != examples.draw(found, "1", 5)


def test_words_that_compression_changed_are_marked() -> None:
    words = examples.compare("a large green star in the top left", "a large red star in the left")
    assert [word.text for word in words if word.is_changed] == ["green", "top"]
    assert " ".join(word.text for word in words) == "a large green star in the top left"


def test_equal_captions_have_no_mark_and_an_empty_one_nothing_but_marks() -> None:
    assert not any(word.is_changed for word in examples.compare("a a b", "a a b"))
    assert all(word.is_changed for word in examples.compare("a b", ""))


def test_description_of_a_picture_that_is_not_stored_says_so() -> None:
    (found,) = examples.draw_descriptions(captions("p", compressed=None), seed=0, count=3)
    assert found.compressed is None
    assert (found.reference, found.uncompressed) == ("reference 0 of p", "a red square")


def test_queries_are_captions_of_stored_pictures() -> None:
    rows = [row for number in range(20) for row in captions(f"p{number}")]
    stored = [f"p{number}" for number in range(10)]
    drawn = examples.draw_queries(rows, stored, seed=0, count=6)
    assert len({query.image_id for query in drawn}) == 6
    assert {query.image_id for query in drawn} <= set(stored)
    assert all(query.text.endswith(f"of {query.image_id}") for query in drawn)
    assert drawn == examples.draw_queries(rows[::-1], stored[::-1], seed=0, count=6)


def test_found_keeps_the_first_and_tells_the_rank_of_the_own_picture() -> None:
    ranking = [("a", 0.9), ("b", 0.5), ("c", 0.1)]
    assert examples.found(Query("text", "c"), ranking, 2) == examples.Found(
        Query("text", "c"), ranking[:2], 3
    )
    assert examples.found(Query("text", None), ranking, 2).rank is None
