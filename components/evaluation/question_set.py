"""What every system is asked about the pictures of one split: questions, a caption, caption pairs."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from components import schema

Row = Mapping[str, Any]
PAIR_ID = "pair_id"


class Exam(NamedTuple):
    """Rows of the curated tables, by picture; picture ids and the rows of a picture are in order of their ids."""

    questions: dict[str, list[Row]]
    captions: dict[str, list[str]]
    pairs: dict[str, list[Row]]  # with a `pair_id`, the row number within the table

    @property
    def image_ids(self) -> list[str]:
        """Every picture that anything is asked about, sorted."""
        return sorted(self.questions.keys() | self.captions.keys() | self.pairs.keys())

    def all_questions(self) -> list[Row]:
        """In order of the question's id."""
        rows = [row for rows in self.questions.values() for row in rows]
        return sorted(rows, key=lambda row: row[schema.QUESTION_ID])

    def all_pairs(self) -> list[Row]:
        """In order of the table."""
        return sorted(
            (row for rows in self.pairs.values() for row in rows), key=lambda row: row[PAIR_ID]
        )

    def texts(self, captions_per_picture: int) -> list[str]:
        """Every different caption that is embedded, sorted; equal captions get equal embeddings."""
        pairs = [
            text
            for row in self.all_pairs()
            for text in (row[schema.CAPTION], row[schema.NEGATIVE_CAPTION])
        ]
        captions = [
            text for texts in self.captions.values() for text in texts[:captions_per_picture]
        ]
        return sorted({*pairs, *captions})


def read_exam(curated: Path, split: str) -> Exam:
    """Read the tables of a split. Raises ValueError: an id that occurs twice, an empty list of captions, no table."""
    questions = _rows(curated / "questions" / f"{split}.parquet", schema.QUESTIONS.names)
    captions = _rows(curated / "captions" / f"{split}.parquet", schema.IMAGE_CAPTIONS.names)
    pairs = _rows(curated / "compositionality" / f"{split}.parquet", schema.COMPOSITIONALITY.names)
    _check_unique((row[schema.QUESTION_ID] for row in questions), "question id")
    _check_unique((row[schema.IMAGE_ID] for row in captions), "picture id among the captions")
    questions = sorted(questions, key=lambda row: row[schema.QUESTION_ID])
    numbered = [row | {PAIR_ID: f"{number:08d}"} for number, row in enumerate(pairs)]
    texts = {
        row[schema.IMAGE_ID]: row[schema.CAPTIONS]
        for row in sorted(captions, key=lambda row: row[schema.IMAGE_ID])
    }
    empty = [image_id for image_id, captions_of in texts.items() if not captions_of]
    if empty:
        raise ValueError(
            f"{len(empty)} pictures have an empty list of captions, {empty[0]!r} first; leave them out"
        )
    return Exam(_by_picture(questions), texts, _by_picture(numbered))


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
            f"the {name} {twice[0]!r} occurs more than once, as do {len(twice) - 1} others; make them unique"
        )
