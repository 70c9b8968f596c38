"""Questions from a file of JSON lines, CSV or Parquet.

Every row is a question to ask, or a reject with a reason.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from components import schema
from components.files.delimited import near_name, read_table
from components.files.lines import Fault
from components.files.parquet import TABLE_ERRORS, check_names, open_parquet, read_batches
from components.files.strict_json import read_json_lines

SUFFIXES = (".jsonl", ".csv", ".parquet")
COLUMNS = (schema.QUESTION_ID, schema.IMAGE_ID, schema.QUESTION)
REASONS = (
    "not_json",  # the line of a .jsonl file is no object
    "not_a_record",  # an open quote, more fields than the header, a key such as `Image_ID`
    "missing_value",
    "not_text",  # a number or a list where text belongs
    "invalid_unicode",
    "empty_question",
    "unknown_image",
    "duplicate_question",  # picture and question id have been there before
    "too_long",  # question and answer do not fit the language model
)
# reasons of lines that cannot be read; all other lines are not_a_record
FAULTS = {"not_json": "not_json", "not_utf8": "invalid_unicode"}
# the picture that a question names, or all pictures in the order of the store
About = Literal["own_picture", "every_picture"]


class Question(NamedTuple):
    """One question about one picture."""

    row: int  # in the file, from 0, blank lines not counted
    question_id: str
    image_id: str
    question: str


class Reject(NamedTuple):
    """A row without an answer; ids are empty where they cannot be read, `detail` is for people."""

    row: int
    question_id: str
    image_id: str
    reason: str
    detail: str


class _Fault(Exception):
    """Reason and detail of a rejected row."""


Row = Mapping[str, Any] | _Fault


def read_questions(path: Path, image_ids: Collection[str]) -> tuple[list[Question], list[Reject]]:
    """Read questions, each with the id of its picture; without an id it has the row's number.

    Raises ValueError when the file cannot be read at all.
    """
    return _sort_out(_rows(path), image_ids)


def ask_every_picture(
    path: Path, image_ids: Collection[str]
) -> tuple[list[Question], list[Reject]]:
    """Ask every question of the file about every picture; a row is rejected once.

    Raises ValueError as `read_questions` does.
    """
    # checked as if all were about one picture without a name
    rows: list[Row] = []
    for row in _rows(path):
        rows.append(row if isinstance(row, _Fault) else {**row, schema.IMAGE_ID: ""})
    questions, rejects = _sort_out(rows, {""})

    asked = []
    for image_id in image_ids:
        asked += [question._replace(image_id=image_id) for question in questions]
    return asked, rejects


# readers, by the pictures that the questions of a file are about
ASK: Mapping[About, Callable[[Path, Collection[str]], tuple[list[Question], list[Reject]]]] = {
    "own_picture": read_questions,
    "every_picture": ask_every_picture,
}


def _sort_out(
    rows: Iterable[Row], image_ids: Collection[str]
) -> tuple[list[Question], list[Reject]]:
    """Split rows into questions that can be asked and rejects."""
    questions: list[Question] = []
    rejects: list[Reject] = []
    seen: set[tuple[str, str]] = set()

    for number, row in enumerate(rows):
        try:
            question = _checked(number, row, image_ids, seen)
        except _Fault as fault:
            # the ids help to find the row, as far as they can be read
            values = {} if isinstance(row, _Fault) else row
            question_id, image_id = values.get(schema.QUESTION_ID), values.get(schema.IMAGE_ID)
            question_id = question_id if isinstance(question_id, str) else ""
            image_id = image_id if isinstance(image_id, str) else ""
            rejects.append(Reject(number, question_id, image_id, *fault.args))
        else:
            seen.add((question.image_id, question.question_id))
            questions.append(question)
    return questions, rejects


def _checked(
    number: int, row: Row, image_ids: Collection[str], seen: Collection[tuple[str, str]]
) -> Question:
    """Return the question of a row. Raises _Fault."""
    if isinstance(row, _Fault):
        raise row
    image_id, question = _text(row, schema.IMAGE_ID), _text(row, schema.QUESTION)
    # a question without an id is known by its row
    has_id = row.get(schema.QUESTION_ID) is not None
    question_id = _text(row, schema.QUESTION_ID) if has_id else str(number)

    if not question.strip():
        raise _Fault("empty_question", "the question has no words")
    if image_id not in image_ids:
        raise _Fault("unknown_image", f"no picture {image_id!r} in the store")
    if (image_id, question_id) in seen:
        detail = f"there is a question {question_id!r} about {image_id!r} before it"
        raise _Fault("duplicate_question", detail)
    return Question(number, question_id, image_id, question)


def _text(row: Mapping[str, Any], name: str) -> str:
    """Return a value that is text. Raises _Fault."""
    value = row.get(name)
    if value is None:
        raise _Fault("missing_value", f"{name} is missing")
    if not isinstance(value, str):
        found = f"{str(value)[:100]}, a {type(value).__name__}"
        raise _Fault("not_text", f"{name} is {found}; write it as text")

    # lone surrogates, of JSON escapes or of bytes that are no UTF-8
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Fault("invalid_unicode", f"{name} is not valid Unicode text") from None
    return value


def _rows(path: Path) -> Iterator[Row]:
    """Read the rows of a file; bytes that are no UTF-8 become lone surrogates."""
    read = {".jsonl": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}.get(path.suffix)
    if read is None:
        raise ValueError(f"{path}: questions come as {', '.join(SUFFIXES)}")
    yield from read(path)


def _json_rows(path: Path) -> Iterator[Row]:
    for number, value in read_json_lines(str(path)):
        if isinstance(value, Fault):
            yield _rejected(value)
        elif isinstance(value, dict):
            near = near_name(value, COLUMNS)
            yield _Fault("not_a_record", f"line {number} {near}") if near else value
        else:
            yield _Fault("not_json", f"line {number} is no JSON object")


def _csv_rows(path: Path) -> Iterator[Row]:
    def choose(header: Sequence[str]) -> Sequence[str]:
        _check_columns(path, header)
        return [name for name in COLUMNS if name in header]

    for row in read_table(str(path), choose, (schema.QUESTION_ID, schema.IMAGE_ID)):
        yield _rejected(row.values) if isinstance(row.values, Fault) else row.values


def _rejected(fault: Fault) -> _Fault:
    return _Fault(FAULTS.get(fault.kind, "not_a_record"), fault.detail)


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        with open_parquet(str(path)) as file:
            known = file.schema_arrow.names
            names = [name for name in COLUMNS if name in known]
            check_names(str(path), known, names)
            _check_columns(path, known)

            for group in range(file.metadata.num_row_groups):
                for batch in read_batches(str(path), file, group, names):
                    for values in zip(*map(_values, batch.columns), strict=True):
                        yield dict(zip(batch.schema.names, values, strict=True))
    except TABLE_ERRORS as error:
        raise ValueError(f"{path}: is no Parquet file, or not a whole one: {error}") from None


def _values(column: pa.Array) -> list[Any]:
    """Return Python values, bytes that are no UTF-8 as surrogates: Arrow does not check them."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return list(map(_value, column))
    texts = column.cast(pa.large_binary()).to_pylist()
    return [None if text is None else text.decode("utf-8", "surrogateescape") for text in texts]


def _value(scalar: pa.Scalar) -> Any:
    """Return a Python value, or the type of one that Python cannot hold, which is no text."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        return scalar.type


def _check_columns(path: Path, names: Sequence[str]) -> None:
    if near := near_name(names, COLUMNS):
        raise ValueError(f"{path}: {near}")
    if schema.QUESTION not in names:
        raise ValueError(
            f"{path}: has no column {schema.QUESTION}; it has {', '.join(names) or 'none'}"
        )
