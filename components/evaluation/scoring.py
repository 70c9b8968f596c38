"""Scoring of answers, one rule per benchmark family, as its official scorer has it.

A missing answer (`None`) is wrong.

- `short_answer`, `word_reading`, `unanswerable`: equality after `normalise_answer` with any
  reference; with the ten annotators of TextVQA and VizWiz, the VQA soft accuracy (leave one out by
  index: min(1, 0.3 n) for n matches).
- `existence`: POPE. "no" if one of the words No, no, not stands before the first full stop, else
  "yes".
- `relations`: MME. The exact word, else whatever of yes and no stands in the first four characters,
  else wrong.
- `multiple_choice`: MMBench. One option letter as a word, else the text of exactly one option, else
  wrong.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from components.evaluation.normalisation import normalise_answer
from components.schema import BENCHMARKS, RIGHT

FREE_TEXT = ("short_answer", "word_reading", "unanswerable")
# scored by group too: MME's acc+, MMBench's circular passes
GROUPED = ("relations", "multiple_choice")
_VQA_ANNOTATORS = 10
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LONGEST_PHRASE_WITH_OPTION_A = 3  # words; in a longer sentence a lone "a" is the article


class ScoredQuestion(NamedTuple):
    """Question with its answer and its score."""

    question_id: str
    image_id: str
    benchmark: str
    kind: str
    group: str | None
    reference: str  # the first reference answer
    answer: str | None  # None: there was nothing to answer from
    score: float  # 0 … 1


def answer_score(
    benchmark: str, answer: str | None, references: Sequence[str], choices: Sequence[str] | None
) -> float:
    """Score one answer, 0 … 1. Raises ValueError for a benchmark it has no rule for."""
    if benchmark not in BENCHMARKS:
        raise ValueError(
            f"no scoring rule for benchmark {benchmark!r}; known: {', '.join(BENCHMARKS)}"
        )
    if answer is None:
        return 0.0

    # One rule per family of benchmarks.
    if benchmark in FREE_TEXT:
        return free_text_score(answer, references)
    if benchmark == "multiple_choice":
        return float(chosen_letter(answer, choices or []) == references[0].strip().upper())
    yes_or_no = existence_answer(answer) if benchmark == "existence" else relation_answer(answer)
    return float(yes_or_no == references[0].strip().lower())


def free_text_score(answer: str, references: Sequence[str]) -> float:
    """Return 1 if any reference matches, normalised; of ten references the VQA soft accuracy."""
    num_matches = list(map(normalise_answer, references)).count(normalise_answer(answer))
    if len(references) == _VQA_ANNOTATORS:
        return min(1.0, 3 * num_matches / 10)
    return float(num_matches > 0)


def existence_answer(answer: str) -> str:
    """Read an answer as POPE does: "yes" unless it negates."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def relation_answer(answer: str) -> str | None:
    """Read an answer as MME does: "yes", "no", or None for anything else."""
    text = answer.strip().lower()
    head = text[:4]
    return "yes" if "yes" in head else "no" if "no" in head else None


def chosen_letter(answer: str, choices: Sequence[str]) -> str | None:
    """Return the option that an answer names, "A" … ; None if it names none or several."""
    letters = _LETTERS[: len(choices)]

    # A letter that stands as a word, which a lone word may also be in lower case.
    words = re.sub(r"[^\w\s]", " ", answer).split()
    if len(words) == 1:
        words = [words[0].upper()]
    named = set(letters) & set(words)
    if len(words) > _LONGEST_PHRASE_WITH_OPTION_A:
        named.discard("A")

    # Without a letter, the options whose text the answer repeats.
    if not named:
        for letter, choice in zip(letters, choices, strict=True):
            if choice.lower() in answer.lower():
                named.add(letter)
    return named.pop() if len(named) == 1 else None


def group_scores(questions: Sequence[ScoredQuestion]) -> list[tuple[str, float]]:
    """Score groups as (image_id, 1 if every question is right), in order of the group's name.

    The passes are the rows present: neither MMBench nor MME lets their number be derived from
    anything else.
    """
    groups: dict[str, list[ScoredQuestion]] = defaultdict(list)
    for question in questions:
        groups[question.group or question.question_id].append(question)

    scores = []
    for _, rows in sorted(groups.items()):
        is_right = all(row.score == 1 for row in rows)
        scores.append((rows[0].image_id, float(is_right)))
    return scores


def hard_questions(questions: Sequence[ScoredQuestion]) -> set[str]:
    """Return the ids of the questions that are wrong, from one system's rows.

    Where questions count only together (GROUPED), all of a group that does not pass.
    """
    groups: dict[tuple[str, str], list[ScoredQuestion]] = defaultdict(list)
    for question in questions:
        is_grouped = question.benchmark in GROUPED and question.group
        name = question.group if is_grouped else question.question_id
        groups[question.benchmark, str(name)].append(question)

    hard: set[str] = set()
    for rows in groups.values():
        if min(row.score for row in rows) < RIGHT:
            hard.update(row.question_id for row in rows)
    return hard


def confusion_counts(questions: Sequence[ScoredQuestion]) -> np.ndarray:
    """Count true positives, false positives and false negatives of "yes": (questions, 3)."""
    is_yes = np.array([question.reference.strip().lower() == "yes" for question in questions])
    is_right = np.array([question.score == 1 for question in questions])
    counts = np.stack([is_yes & is_right, ~is_yes & ~is_right, is_yes & ~is_right], axis=1)
    return counts.astype(np.float64)


def f1(counts: np.ndarray) -> np.ndarray:
    """Return the F1 of summed confusion counts (..., 3); 0 where nothing is positive."""
    true_positives, errors = counts[..., 0], counts[..., 1] + counts[..., 2]
    total = 2 * true_positives + errors
    return np.divide(2 * true_positives, total, out=np.zeros_like(total), where=total > 0)
