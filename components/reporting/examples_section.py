"""Examples for the page, drawn by a seeded rule that the page states: nobody picks them."""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from components import schema
from components.reporting.metric_tables import COMPRESSED, SYSTEMS, UNCOMPRESSED

Row = Mapping[str, Any]
# an answer with at least this score counts as right; only ten-annotator questions have scores
# between
RIGHT = 0.5


class Said(NamedTuple):
    """What one system answered."""

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
    said: dict[str, Said]  # by system, in order


class Box(NamedTuple):
    """The questions that the compressor and its base answered alike, or not alike, and those drawn from them."""

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
    """What a query found."""

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
    """Every question is in one box, by whether the compressor and its base were right; some are drawn from each."""
    boxes: dict[str, list[Example]] = {name: [] for name in BOXES.values()}
    for example in to_examples(answers):
        outcome = example.said[COMPRESSED].is_right, example.said[UNCOMPRESSED].is_right
        boxes[BOXES[outcome]].append(example)
    return [
        Box(name, len(found), draw(found, f"{seed} {name}", per_box))
        for name, found in boxes.items()
    ]


def to_examples(answers: Iterable[Row]) -> list[Example]:
    """One for every question, in order of its id."""
    rows: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in answers:
        rows[row[schema.QUESTION_ID]][row["system"]] = row
    return [_example(question_id, of_systems) for question_id, of_systems in sorted(rows.items())]


def draw(examples: Sequence[Example], seed: str, count: int) -> list[Example]:
    """In random order, but a benchmark has its second turn only after all others had their first."""
    shuffled = random.Random(seed).sample(examples, len(examples))
    turns: Counter[str] = Counter()
    numbered = []
    for example in shuffled:
        numbered.append((turns[example.benchmark], example))
        turns[example.benchmark] += 1
    return [example for _, example in sorted(numbered, key=lambda pair: pair[0])[:count]]


def draw_descriptions(captions: Sequence[Row], seed: int, count: int) -> list[Description]:
    """`count` described pictures at random."""
    rows = by_picture(captions)
    return [
        _description(image_id, rows[image_id])
        for image_id in sample(rows, f"{seed} captions", count)
    ]


def draw_queries(
    captions: Sequence[Row], stored: Iterable[str], seed: int, count: int
) -> list[Query]:
    """A random reference caption of each of `count` random stored pictures."""
    rows = by_picture(captions)
    return [
        Query(
            random.Random(f"{seed} {image_id}").choice(rows[image_id][COMPRESSED]["references"]),
            image_id,
        )
        for image_id in sample(rows.keys() & set(stored), f"{seed} queries", count)
    ]


def sample(image_ids: Collection[str], seed: str, count: int) -> list[str]:
    """At most `count` different ids, whatever the order they come in."""
    return random.Random(seed).sample(sorted(image_ids), min(count, len(image_ids)))


def found(query: Query, ranking: Sequence[tuple[str, float]], count: int) -> Found:
    """The first `count` of a ranking of all pictures, and where the query's own picture stands in it."""
    ids = [image_id for image_id, _ in ranking]
    rank = ids.index(query.image_id) + 1 if query.image_id in ids else None
    return Found(query, list(ranking[:count]), rank)


def by_picture(captions: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """Rows by picture, then by system."""
    rows: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in captions:
        rows[row[schema.IMAGE_ID]][row["system"]] = row
    return dict(rows)


def compare(text: str, other: str) -> list[Word]:
    """The words of `text`, with those marked that a shortest edit of `other` puts in."""
    words, others = text.split(), other.split()
    matches = SequenceMatcher(None, others, words, autojunk=False).get_matching_blocks()
    kept = {match.b + offset for match in matches for offset in range(match.size)}
    return [Word(word, index not in kept) for index, word in enumerate(words)]


def _description(image_id: str, rows: Mapping[str, Row]) -> Description:
    uncompressed, compressed = (rows[system]["caption"] for system in (UNCOMPRESSED, COMPRESSED))
    changed = None if compressed is None else compare(compressed, uncompressed or "")
    return Description(image_id, rows[COMPRESSED]["references"][0], uncompressed, changed)


def _example(question_id: str, rows: Mapping[str, Row]) -> Example:
    row = rows[COMPRESSED]
    said = {
        name: Said(name, rows[name]["answer"], rows[name]["score"] >= RIGHT)
        for name in SYSTEMS
        if name in rows
    }
    image_id, benchmark, kind = row[schema.IMAGE_ID], row[schema.BENCHMARK], row[schema.KIND]
    return Example(
        question_id, image_id, benchmark, kind, row[schema.QUESTION], row["references"], said
    )
