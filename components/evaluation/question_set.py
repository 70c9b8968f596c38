"""Question set of one split: what every system is asked, and the queries of search."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from components import schema

Row = Mapping[str, Any]
PAIR_ID = "pair_id"


class QuestionSet(NamedTuple):
    """Rows of the curated tables by picture; pictures, and the rows of each, in order of ids."""

    questions: dict[str, list[Row]]
    captions: dict[str, list[str]]
    pairs: dict[str, list[Row]]  # with a `pair_id`, the row number within the table
    queries: Sequence[Row]  # of search, in order of their ids; each fits several pictures

    @property
    def image_ids(self) -> list[str]:
        """Every picture with a question, a caption or a pair, or that fits a query, sorted."""
        searched = chain.from_iterable(row[schema.IMAGE_IDS] for row in self.queries)
        return sorted({*self.questions, *self.captions, *self.pairs, *searched})

    def all_questions(self) -> list[Row]:
        """Return the questions in order of their ids."""
        return sorted(
            chain.from_iterable(self.questions.values()), key=itemgetter(schema.QUESTION_ID)
        )

    def all_pairs(self) -> list[Row]:
        """Return the caption pairs in order of the table."""
        return sorted(chain.from_iterable(self.pairs.values()), key=itemgetter(PAIR_ID))

    def texts(self, captions_per_picture: int) -> list[str]:
        """Return the different captions to embed, sorted; equal ones have one embedding."""
        texts: set[str] = set()
        for row in self.all_pairs():
            texts |= {row[schema.CAPTION], row[schema.NEGATIVE_CAPTION]}
        for captions in self.captions.values():
            texts.update(captions[:captions_per_picture])
        return sorted(texts)

    def query_texts(self, captions_per_picture: int) -> list[str]:
        """Return the different queries that `texts` lacks, sorted."""
        queries = {row[schema.TEXT] for row in self.queries}
        return sorted(queries.difference(self.texts(captions_per_picture)))


def read_question_set(curated: Path, split: str) -> QuestionSet:
    """Read the tables of a split.

    Raises ValueError: an id that occurs twice, an empty list of captions, no table.
    """
    questions = _rows(curated / "questions" / f"{split}.parquet", schema.QUESTIONS.names)
    captions = _rows(curated / "captions" / f"{split}.parquet", schema.IMAGE_CAPTIONS.names)
    pairs = _rows(curated / "compositionality" / f"{split}.parquet", schema.COMPOSITIONALITY.names)
    queries = _rows(curated / "queries" / f"{split}.parquet", schema.QUERIES.names)

    # Ids are the keys of every score.
    question_id, image_id = itemgetter(schema.QUESTION_ID), itemgetter(schema.IMAGE_ID)
    query_id = itemgetter(schema.QUERY_ID)
    _check_unique(map(question_id, questions), "question id")
    _check_unique(map(query_id, queries), "query id")
    _check_unique(map(image_id, captions), "picture id among the captions")

    # An empty list would leave a picture without a reference to compare with.
    captions.sort(key=image_id)
    texts = {row[schema.IMAGE_ID]: row[schema.CAPTIONS] for row in captions}
    empty = [row[schema.IMAGE_ID] for row in captions if not row[schema.CAPTIONS]]
    if empty:
        raise ValueError(
            f"{len(empty)} pictures have an empty list of captions, {empty[0]!r} first; "
            "leave them out"
        )

    # Pairs have no id of their own in the published files.
    for number, row in enumerate(pairs):
        row[PAIR_ID] = f"{number:08d}"
    questions.sort(key=question_id)
    queries.sort(key=query_id)
    return QuestionSet(_by_picture(questions), texts, _by_picture(pairs), queries)


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"{path} is missing; run the stage `curate` first")
    return pq.read_table(path, columns=list(columns)).to_pylist()


def _by_picture(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row[schema.IMAGE_ID], []).append(row)
    return found


def _check_unique(keys: Iterable[str], name: str) -> None:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise ValueError(
            f"the {name} {twice[0]!r} occurs more than once, as do {len(twice) - 1} others; "
            "make them unique"
        )
