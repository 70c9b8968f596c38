"""Results of questions: the table of a finished piece, and the files that are published.

answers.jsonl                 question_id, image_id, question, answer and new_tokens, as asked
answers.jsonl.rejects.jsonl   row, question_id, image_id, reason and detail
answers.jsonl.manifest.json   store, model and settings that made them; counts; bytes and SHA-256
"""

import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from components.answering.questions import REASONS, Question, Reject
from components.files.outputs import json_with

SUFFIXES = (".jsonl", ".parquet")
MAX_LINE_BYTES = 1 << 24  # longer than any line of a reject
ANSWERS = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("new_tokens", pa.int32(), nullable=False),
    ]
)
# a piece also has the place among all questions and the row of the file; an answer or a reason
PIECE = pa.schema(
    [
        ("place", pa.int64()),
        ("row", pa.int64()),
        *zip(ANSWERS.names, ANSWERS.types, strict=True),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


class Asked(NamedTuple):
    """A question of a piece, and its place among all questions."""

    place: int
    question: Question


class Answer(NamedTuple):
    """The answer to a question."""

    text: str
    new_tokens: int  # without the end token


def piece_bytes(asked: Sequence[Asked], outcomes: Sequence[Answer | Reject]) -> bytes:
    """Write the finished piece as Parquet; the same rows give the same bytes."""
    rows = []
    for (place, question), outcome in zip(asked, outcomes, strict=True):
        row = {"place": place, **question._asdict()}
        if isinstance(outcome, Reject):
            row |= {"reason": outcome.reason, "detail": outcome.detail}
        else:
            row |= {"answer": outcome.text, "new_tokens": outcome.new_tokens}
        rows.append(row)
    return _parquet(pa.Table.from_pylist(rows, PIECE))


def merge_pieces(paths: Iterable[Path]) -> tuple[pa.Table, list[Reject]]:
    """Return the answers of all pieces as ANSWERS, in the order asked, and the rejects."""
    rows = pa.concat_tables([PIECE.empty_table(), *map(pq.read_table, paths)]).sort_by("place")
    is_answered = rows["reason"].is_null()
    rejected = rows.filter(pa.compute.invert(is_answered)).select(Reject._fields)
    answers = rows.filter(is_answered).select(ANSWERS.names).cast(ANSWERS)
    return answers.combine_chunks(), [Reject(**row) for row in rejected.to_pylist()]


def answers_bytes(answers: pa.Table, suffix: str) -> bytes:
    """Write the file of the answers; suffix: one of SUFFIXES."""
    return _parquet(answers) if suffix == ".parquet" else json_lines(answers.to_pylist())


def rejects_bytes(rejects: Iterable[Reject]) -> bytes:
    """Write the file of the rejects, sorted by row and picture."""
    return json_lines(map(Reject._asdict, sorted(rejects)))


def reject_counts(rejects: Iterable[Reject]) -> dict[str, int]:
    """Count the rejects of each reason."""
    counts = Counter(reject.reason for reject in rejects)
    assert counts.keys() <= set(REASONS), "a reason outside the closed set"
    return dict(sorted(counts.items()))


def json_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    """Write a JSON object a line, in ASCII: lone surrogates of bad input can be written too."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def sidecar(output: Path, name: str) -> Path:
    """Return the place of a file beside the answers."""
    return output.with_name(f"{output.name}.{name}")


def is_rejects(path: Path) -> bool:
    """Return whether a file begins as the rejects of a run do."""
    try:
        with path.open("rb") as stream:
            first = json.loads(stream.readline(MAX_LINE_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and tuple(first) == Reject._fields


is_manifest = json_with("questions", "store", "settings", "answers", "rejects")


def _parquet(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()
