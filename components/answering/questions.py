"""Questions from a file of JSON lines, CSV or Parquet: every row is a question to ask, or a reject with a reason."""

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
# of a line that cannot be read; else not_a_record
FAULTS = {"not_json": "not_json", "not_utf8": "invalid_unicode"}
# the one that a question names, or all in the order of the store
About = Literal["own_picture", "every_picture"]


class Question(NamedTuple):
    """One question about one picture."""

    row: int  # in the file, from 0, blank lines not counted
    question_id: str
    image_id: str
    question: str


class Reject(NamedTuple):
    """A row that gets no answer; ids are empty where they cannot be read, `detail` is for people."""

    row: int
    question_id: str
    image_id: str
    reason: str
    detail: str


class _Fault(Exception):
    """Why a row is rejected: reason and detail."""


Row = Mapping[str, Any] | _Fault


def read_questions(path: Path, image_ids: Collection[str]) -> tuple[list[Question], list[Reject]]:
    """Questions with the id of the picture that each is about; an id of their own is the row's number if there is none.

    Raises ValueError when the file cannot be read at all.
    """
    return _sort_out(_rows(path), image_ids)


def ask_every_picture(
    path: Path, image_ids: Collection[str]
) -> tuple[list[Question], list[Reject]]:
    """Every question of the file about every picture; a row that cannot be asked is rejected once.

    Raises ValueError as `read_questions` does.
    """
    rows = (row if isinstance(row, _Fault) else {**row, schema.IMAGE_ID: ""} for row in _rows(path))
    questions, rejects = _sort_out(rows, {""})
    asked = [
        question._replace(image_id=image_id) for image_id in image_ids for question in questions
    ]
    return asked, rejects


# By what the questions of a file are about.
ASK: Mapping[About, Callable[[Path, Collection[str]], tuple[list[Question], list[Reject]]]] = {
    "own_picture": read_questions,
    "every_picture": ask_every_picture,
}


def _sort_out(
    rows: Iterable[Row], image_ids: Collection[str]
) -> tuple[list[Question], list[Reject]]:
    questions: list[Question] = []
    rejects: list[Reject] = []
    seen: set[tuple[str, str]] = set()
    for number, row in enumerate(rows):
        try:
            question = _checked(number, row, image_ids, seen)
        except _Fault as fault:
            values = {} if isinstance(row, _Fault) else row
            ids = [
                value if isinstance(value := values.get(name), str) else ""
                for name in (schema.QUESTION_ID, schema.IMAGE_ID)
            ]
            rejects.append(Reject(number, *ids, *fault.args))
        else:
            seen.add((question.image_id, question.question_id))
            questions.append(question)
    return questions, rejects


def _checked(
    number: int, row: Row, image_ids: Collection[str], seen: Collection[tuple[str, str]]
) -> Question:
    """The question of a row. Raises _Fault."""
    if isinstance(row, _Fault):
        raise row
    image_id, question = _text(row, schema.IMAGE_ID), _text(row, schema.QUESTION)
    question_id = (
        str(number) if row.get(schema.QUESTION_ID) is None else _text(row, schema.QUESTION_ID)
    )
    if not question.strip():
        raise _Fault("empty_question", "the question has no words")
    if image_id not in image_ids:
        raise _Fault("unknown_image", f"no picture {image_id!r} in the store")
    if (image_id, question_id) in seen:
        raise _Fault(
            "duplicate_question",
            f"there is a question {question_id!r} about {image_id!r} before it",
        )
    return Question(number, question_id, image_id, question)


def _text(row: Mapping[str, Any], name: str) -> str:
    """A value that is text. Raises _Fault."""
    value = row.get(name)
    if value is None:
        raise _Fault("missing_value", f"{name} is missing")
    if not isinstance(value, str):
        raise _Fault(
            "not_text", f"{name} is {str(value)[:100]}, a {type(value).__name__}; write it as text"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Fault("invalid_unicode", f"{name} is not valid Unicode text") from None
    return value


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a file; what cannot be decoded in a text stands there as lone surrogates."""
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
                    columns = [_values(column) for column in batch.columns]
                    found = batch.schema.names
                    yield from (
                        dict(zip(found, values, strict=True))
                        for values in zip(*columns, strict=True)
                    )
    except TABLE_ERRORS as error:
        raise ValueError(f"{path}: is no Parquet file, or not a whole one: {error}") from None


def _values(column: pa.Array) -> list[Any]:
    """Python values; Arrow does not check that text is UTF-8 before it is read."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return [_value(scalar) for scalar in column]
    texts = column.cast(pa.large_binary()).to_pylist()
    return [None if text is None else text.decode("utf-8", "surrogateescape") for text in texts]


def _value(scalar: pa.Scalar) -> Any:
    """A Python value; of a time that Python has no words for, its type, which is no text either."""
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
