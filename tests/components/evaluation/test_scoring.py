import numpy as np
import pytest

from components.evaluation.scoring import (
    ScoredQuestion,
    answer_score,
    chosen_letter,
    confusion_counts,
    existence_answer,
    f1,
    group_scores,
    hard_questions,
    relation_answer,
)


def question(
    question_id: str,
    score: float,
    *,
    group: str | None = None,
    reference: str = "yes",
    image_id: str = "p",
) -> ScoredQuestion:
    return ScoredQuestion(question_id, image_id, "relations", "left", group, reference, "", score)


@pytest.mark.parametrize("benchmark", ["short_answer", "word_reading", "unanswerable"])
def test_free_text_matches_any_reference_after_normalisation(benchmark: str) -> None:
    assert answer_score(benchmark, "The Red.", ["blue", "red"], None) == 1
    assert answer_score(benchmark, "green", ["blue", "red"], None) == 0


@pytest.mark.parametrize(
    ("matches", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_ten_annotators_give_the_vqa_soft_accuracy(matches: int, expected: float) -> None:
    references = ["yes"] * matches + ["other"] * (10 - matches)
    # the definition, one by one
    left_out = [min(1, (matches - (reference == "yes")) / 3) for reference in references]
    assert answer_score("short_answer", "yes", references, None) == pytest.approx(expected)
    assert np.mean(left_out) == pytest.approx(expected)


@pytest.mark.parametrize("benchmark", ["short_answer", "existence", "relations", "multiple_choice"])
def test_a_missing_answer_is_wrong(benchmark: str) -> None:
    assert answer_score(benchmark, None, ["yes"], ["x", "y"]) == 0


def test_an_unknown_benchmark_is_named() -> None:
    with pytest.raises(ValueError, match=r"'riddles'.*known: short_answer"):
        answer_score("riddles", "x", ["x"], None)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),
        ("no", "no"),
        ("No, there is not", "no"),
        ("yes. no", "yes"),
        ("NO", "yes"),
        ("", "yes"),
        ("Yes, not one", "no"),
    ],
)
def test_existence_is_read_as_pope_does(answer: str, expected: str) -> None:
    assert existence_answer(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("Nope", "no"),
        ("snow", "no"),
        ("Y", None),
        ("I do not know", None),
        ("", None),
    ],
)
def test_relations_are_read_as_mme_does(answer: str, expected: str | None) -> None:
    assert relation_answer(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B", "B"),
        ("b", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("The answer is D", "D"),
        ("A blue one is there", "B"),
        ("blue", "B"),
        ("A or B", None),
        ("red or blue", None),
        ("E", None),
        ("", None),
    ],
)
def test_the_chosen_letter_is_found_or_nothing_is(answer: str, expected: str | None) -> None:
    assert chosen_letter(answer, ["red", "blue", "green", "yellow"]) == expected


def test_circular_passes_count_only_together() -> None:
    passes = [question(f"q{i}", 1.0, group="g") for i in range(4)] + [
        question("h1", 1.0, group="h"),
        question("h2", 0.0, group="h"),
    ]
    assert group_scores(passes) == [("p", 1.0), ("p", 0.0)]


def test_a_question_without_a_group_stands_alone() -> None:
    assert group_scores([question("a", 1.0), question("b", 0.0)]) == [("p", 1.0), ("p", 0.0)]


def test_f1_by_its_definition() -> None:
    rows = [
        question("a", 1.0),
        question("b", 0.0),
        question("c", 0.0, reference="no"),
        question("d", 1.0, reference="no"),
    ]
    counts = confusion_counts(rows)
    precision, recall = 1 / 2, 1 / 2
    assert counts.sum(axis=0).tolist() == [1, 1, 1]
    assert f1(counts.sum(axis=0)) == pytest.approx(2 * precision * recall / (precision + recall))


def test_f1_of_a_model_that_never_says_yes_is_zero() -> None:
    assert f1(np.zeros((2, 3))).tolist() == [0, 0]


def test_hard_is_what_does_not_pass_alone_or_with_its_group() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(200):
        benchmark = str(rng.choice(["short_answer", "relations", "multiple_choice"]))
        # groups of one benchmark may be called as those of another, and free text has none
        group = str(rng.integers(20)) if rng.random() < 0.8 else None
        score = float(rng.random() < 0.7) if benchmark != "short_answer" else rng.choice([0.3, 0.6])
        row = question(f"q{number}", score, group=group)
        rows.append(row._replace(benchmark=benchmark))

    # the definition, question by question
    expected = set()
    for row in rows:
        together = [
            other.score
            for other in rows
            if other is row
            or (
                row.benchmark != "short_answer"
                and row.group is not None
                and (other.benchmark, other.group) == (row.benchmark, row.group)
            )
        ]
        if not all(score >= 0.5 for score in together):
            expected.add(row.question_id)
    assert hard_questions(rows) == expected
    assert 0 < len(expected) < len(rows)


def test_the_groups_that_pass_are_those_that_are_not_hard() -> None:
    rows = [question(f"q{n}", float(n % 3 > 0), group=f"g{n // 2}") for n in range(12)]
    hard = hard_questions(rows)
    easy = [row for row in rows if row.question_id not in hard]
    assert all(score == 1 for _, score in group_scores(easy))
    left = [row for row in rows if row.question_id in hard]
    assert all(score == 0 for _, score in group_scores(left))
