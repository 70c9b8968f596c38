"""Examples for the page, drawn by a seeded rule that the page states: nobody picks them."""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from components import schema
from components.reporting.metric_tables import COMPRESSED, SYSTEMS, UNCOMPRESSED

Row = Mapping[str, Any]


class Answer(NamedTuple):
    """The answer of one system."""

    system: str
    text: str | None  # None: it had no picture to answer about
    is_right: bool


class Example(NamedTuple):
    """A question with all answers to it."""

    question_id: str
    image_id: str
    benchmark: str
    kind: str
    question: str
    references: list[str]
    answers: dict[str, Answer]  # by system, in order


class Box(NamedTuple):
    """Questions by whether the compressor and its base were right, and examples of them."""

    name: str  # "both", "uncompressed", "compressed" or "neither": who was right
    total: int
    drawn: list[Example]


class Word(NamedTuple):
    """A word of a caption; changed words are not in the caption that it is compared with."""

    text: str
    is_changed: bool


class Description(NamedTuple):
    """A picture with a reference caption, the base model's and the compressor's."""

    image_id: str
    reference: str  # the first one
    uncompressed: str | None  # None: there was no picture to describe
    compressed: list[Word] | None  # compared with `uncompressed`


class Query(NamedTuple):
    """A text to search with; drawn ones are captions of a picture."""

    text: str
    image_id: str | None


class Found(NamedTuple):
    """The results of a query."""

    query: Query
    hits: list[tuple[str, float]]  # picture id and cosine similarity, best first
    rank: int | None  # of the query's own picture, from 1


BOXES = {
    (True, True): "both",
    (False, True): "uncompressed",
    (True, False): "compressed",
    (False, False): "neither",
}


def outcome_boxes(answers: Iterable[Row], seed: int, per_box: int) -> list[Box]:
    """Put every question into a box of BOXES, and draw `per_box` examples from each."""
    examples: dict[str, list[Example]] = defaultdict(list)
    for example in to_examples(answers):
        compressed, base = example.answers[COMPRESSED], example.answers[UNCOMPRESSED]
        examples[BOXES[compressed.is_right, base.is_right]].append(example)

    # an empty box is shown too
    boxes = []
    for name in BOXES.values():
        drawn = draw(examples[name], f"{seed} {name}", per_box)
        boxes.append(Box(name, len(examples[name]), drawn))
    return boxes


def to_examples(answers: Iterable[Row]) -> list[Example]:
    """Return an example for every question, in order of its id."""
    questions = by_system(answers, schema.QUESTION_ID)
    return [_example(question_id, rows) for question_id, rows in sorted(questions.items())]


def by_system(rows: Iterable[Row], key: str) -> dict[str, dict[str, Row]]:
    """Return rows by the value of `key`, then by system."""
    grouped: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        grouped[row[key]][row["system"]] = row
    return dict(grouped)


def draw(examples: Sequence[Example], seed: str, count: int) -> list[Example]:
    """Draw in random order, but no benchmark a second time before every other had a turn."""
    shuffled = random.Random(seed).sample(examples, len(examples))

    num_turns: Counter[str] = Counter()  # by benchmark
    turns = {}  # by question
    for example in shuffled:
        turns[example.question_id] = num_turns[example.benchmark]
        num_turns[example.benchmark] += 1

    # first turns before second ones, each in random order
    return sorted(shuffled, key=lambda example: turns[example.question_id])[:count]


def draw_descriptions(captions: Sequence[Row], seed: int, count: int) -> list[Description]:
    """Draw `count` described pictures."""
    rows = by_system(captions, schema.IMAGE_ID)
    drawn = sample(rows, f"{seed} captions", count)
    return [_description(image_id, rows[image_id]) for image_id in drawn]


def draw_queries(
    captions: Sequence[Row], stored: Iterable[str], seed: int, count: int
) -> list[Query]:
    """Draw a reference caption of each of `count` stored pictures."""
    rows = by_system(captions, schema.IMAGE_ID)

    # a seed for every picture: its caption does not depend on which others are drawn
    queries = []
    for image_id in sample(rows.keys() & set(stored), f"{seed} queries", count):
        references = rows[image_id][COMPRESSED]["references"]
        queries.append(Query(random.Random(f"{seed} {image_id}").choice(references), image_id))
    return queries


def sample(image_ids: Collection[str], seed: str, count: int) -> list[str]:
    """Draw at most `count` different ids, whatever the order they come in."""
    return random.Random(seed).sample(sorted(image_ids), min(count, len(image_ids)))


def found(query: Query, ranking: Sequence[tuple[str, float]], count: int) -> Found:
    """Return the first `count` of a ranking of all pictures, and the rank of the query's own."""
    ids = [image_id for image_id, _ in ranking]
    rank = ids.index(query.image_id) + 1 if query.image_id in ids else None
    return Found(query, list(ranking[:count]), rank)


def compare(text: str, other: str) -> list[Word]:
    """Return the words of `text`, with the words marked that a shortest edit of `other` adds."""
    words, others = text.split(), other.split()

    # places in `words` that both have
    kept: set[int] = set()
    for match in SequenceMatcher(None, others, words, autojunk=False).get_matching_blocks():
        kept.update(range(match.b, match.b + match.size))
    return [Word(word, index not in kept) for index, word in enumerate(words)]


def _description(image_id: str, rows: Mapping[str, Row]) -> Description:
    uncompressed, compressed = rows[UNCOMPRESSED]["caption"], rows[COMPRESSED]["caption"]
    changed = None if compressed is None else compare(compressed, uncompressed or "")
    return Description(image_id, rows[COMPRESSED]["references"][0], uncompressed, changed)


def _example(question_id: str, rows: Mapping[str, Row]) -> Example:
    # in the order in which the page shows systems, whatever the order of the file
    answers = {}
    for system in SYSTEMS:
        if system in rows:
            row = rows[system]
            answers[system] = Answer(system, row["answer"], row["score"] >= schema.RIGHT)

    # the question is the same in every row
    row = rows[COMPRESSED]
    return Example(
        question_id,
        image_id=row[schema.IMAGE_ID],
        benchmark=row[schema.BENCHMARK],
        kind=row[schema.KIND],
        question=row[schema.QUESTION],
        references=row["references"],
        answers=answers,
    )
