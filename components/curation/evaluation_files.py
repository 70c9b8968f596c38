"""Evaluation files -> rows of the evaluation tables: questions, COCO captions, SugarCrepe pairs.

Evaluation data are never deduplicated or repaired beyond control characters: a benchmark is what
its authors published. A row goes only when it cannot be used: a field is missing, or its picture is
not in the curated corpus.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from components import schema
from components.curation.accounting import Outcome
from components.curation.reasons import Reason, Rejected, Repair
from components.curation.records import (
    Entry,
    PictureNames,
    id_text,
    list_in,
    read_entries,
    read_object,
    shown,
)
from components.curation.text_filters import TextLimits, clean_text
from components.curation.written_tables import write_rows
from components.files.storage import is_unicode, printable

PICTURES = "pictures"  # the folder beside the files below that holds their pictures
Row = dict[str, Any]
Pictures = Mapping[str, bool]  # image id -> whether it was kept


def write_benchmarks(
    raw: Path, output: Path, pictures: Mapping[str, Pictures], limits: TextLimits
) -> tuple[list[Outcome], dict[str, int]]:
    """Write the three evaluation tables of every split; returns what became of each row, and the rows in per source."""
    outcomes: list[Outcome] = []
    rows_in: dict[str, int] = {}
    for split in sorted(pictures):
        for name, table, final, read in TABLES:
            source = f"evaluation/{split}/{table}"
            rows, found = read(
                raw / "evaluation" / split / name, source, split, pictures[split], limits
            )
            write_rows(rows, final, output / table / f"{split}.parquet")
            outcomes += found
            rows_in[source] = len(found)
    return outcomes, rows_in


def check_files(raw: Path, splits: Iterable[str]) -> None:
    """Raises ValueError for evaluation files that are not there or broken as a whole: rows take hours, this seconds."""
    places = [raw / "evaluation" / split / name for split in splits for name, *_ in TABLES]
    if missing := [str(place) for place in places if not place.is_file()]:
        raise ValueError(
            f"{', '.join(missing)}: no such file; docs/data.md says what stands in one for no rows"
        )
    for place in places:
        if place.suffix == ".jsonl":
            next(read_entries(str(place)), None)
        else:
            read_object(str(place))


def question_rows(
    path: Path, source: str, split: str, pictures: Pictures, limits: TextLimits
) -> tuple[list[Row], list[Outcome]]:
    """Rows of schema.QUESTIONS from JSON lines."""

    def check(record: Any, clean: Callable[[object], str]) -> Row:
        choices, group = record.get("choices"), record.get("group")
        return {
            schema.QUESTION_ID: _identifier(record["question_id"]),
            schema.IMAGE_ID: _find_picture(record["image"], pictures),
            schema.SPLIT: split,
            schema.BENCHMARK: clean(record["benchmark"]),
            schema.KIND: clean(record["kind"]),
            schema.QUESTION: clean(record["question"]),
            schema.ANSWERS: _clean_list(record["answers"], clean),
            schema.CHOICES: None if choices is None else _clean_list(choices, clean),
            schema.GROUP: None if group is None else _identifier(group),
        }

    entries = [(_entry_id(entry, "question_id"), entry.value) for entry in read_entries(str(path))]
    return _check_all(entries, source, check, limits)


def caption_rows(
    path: Path, source: str, split: str, pictures: Pictures, limits: TextLimits
) -> tuple[list[Row], list[Outcome]]:
    """Rows of schema.IMAGE_CAPTIONS from a file in COCO format; one outcome per annotation, one row per picture."""
    document = read_object(str(path))
    names = PictureNames(str(path), document)

    def check(record: Any, clean: Callable[[object], str]) -> Row:
        return {
            schema.IMAGE_ID: _find_picture(names.find(record["image_id"]), pictures),
            schema.CAPTION: clean(record["caption"]),
        }

    annotations = list_in(str(path), document, "annotations")
    entries = [(_entry_id(Entry(f"annotation {i}", a), "id"), a) for i, a in enumerate(annotations)]
    rows, outcomes = _check_all(entries, source, check, limits)
    captions: dict[str, list[str]] = {}
    for row in rows:
        captions.setdefault(row[schema.IMAGE_ID], []).append(row[schema.CAPTION])
    return [
        {schema.IMAGE_ID: image_id, schema.SPLIT: split, schema.CAPTIONS: found}
        for image_id, found in sorted(captions.items())
    ], outcomes


def compositionality_rows(
    path: Path, source: str, split: str, pictures: Pictures, limits: TextLimits
) -> tuple[list[Row], list[Outcome]]:
    """Rows of schema.COMPOSITIONALITY from a file in SugarCrepe format: {subset: {key: row}}."""

    def check(record: Any, clean: Callable[[object], str]) -> Row:
        return {
            schema.IMAGE_ID: _find_picture(record["filename"], pictures),
            schema.SPLIT: split,
            schema.SUBSET: _identifier(record["subset"]),
            schema.CAPTION: clean(record["caption"]),
            schema.NEGATIVE_CAPTION: clean(record["negative_caption"]),
        }

    entries = [
        (f"{subset}/{key}", {**row, "subset": subset} if isinstance(row, dict) else row)
        for subset, rows in read_object(str(path)).items()
        for key, row in (rows if isinstance(rows, dict) else {"": rows}).items()
    ]
    return _check_all(entries, source, check, limits)


def _check_all(
    entries: Iterable[tuple[str, Any]],
    source: str,
    check: Callable[[Any, Callable[[object], str]], Row],
    limits: TextLimits,
) -> tuple[list[Row], list[Outcome]]:
    rows: list[Row] = []
    outcomes: list[Outcome] = []
    seen: set[str] = set()
    for name, value in entries:
        entry_id = printable(name)
        repairs: set[str] = set()
        try:
            if entry_id in seen:
                raise Rejected(Reason.DUPLICATE_ID, "an earlier row has the same id")
            rows.append(_check_one(value, check, _cleaner(limits, repairs)))
            outcomes.append(Outcome(entry_id, source, None, "", tuple(repairs)))
        except Rejected as error:
            outcomes.append(
                Outcome(entry_id, source, error.reason.value, printable(error.detail), ())
            )
        seen.add(entry_id)
    return rows, outcomes


def _check_one(
    value: Any, check: Callable[[Any, Callable[[object], str]], Row], clean: Callable[[object], str]
) -> Row:
    if isinstance(value, Rejected):
        raise value
    if not isinstance(value, dict):
        raise Rejected(Reason.BAD_RECORD, f"{type(value).__name__} where an object belongs")
    try:
        return check(value, clean)
    except (KeyError, TypeError) as error:
        raise Rejected(Reason.BAD_RECORD, f"{type(error).__name__}: {error}") from None


def _cleaner(limits: TextLimits, repairs: set[str]) -> Callable[[object], str]:
    """Cleans and checks one text field; notes the repair."""

    def clean(text: object) -> str:
        cleaned, repaired = clean_text(text)
        if not cleaned:
            raise Rejected(Reason.EMPTY_TEXT, "an empty text field")
        if len(cleaned) > limits.max_turn_characters:
            raise Rejected(Reason.TEXT_TOO_LONG, f"{len(cleaned)} characters")
        if repaired:
            repairs.add(Repair.CONTROL_CHARACTERS.value)
        return cleaned

    return clean


def _clean_list(texts: object, clean: Callable[[object], str]) -> list[str]:
    if not isinstance(texts, list) or not texts:
        raise Rejected(Reason.BAD_RECORD, "answers and choices are lists of at least one text")
    return [clean(text) for text in texts]


def _identifier(value: object) -> str:
    text = id_text(value)
    if text is None:
        raise Rejected(Reason.BAD_RECORD, f"{shown(value)} is no id; write it as text")
    if not is_unicode(text):
        raise Rejected(Reason.BAD_ENCODING, f"the id {text!r} is not Unicode text")
    return text


def _entry_id(entry: Entry, key: str) -> str:
    value = entry.value.get(key) if isinstance(entry.value, dict) else None
    return id_text(value) or entry.place


def _find_picture(reference: str, pictures: Pictures) -> str:
    """The id of the picture that a file refers to, by its name in the pictures folder or from the folder above it."""
    path = PurePosixPath(reference)
    image_id = (path.relative_to(PICTURES) if path.is_relative_to(PICTURES) else path).as_posix()
    if image_id not in pictures:
        raise Rejected(Reason.IMAGE_MISSING, image_id)
    if not pictures[image_id]:
        raise Rejected(Reason.PICTURE_REJECTED, image_id)
    return image_id


# Evaluation file, its table, the table's schema, the reader.
TABLES = (
    ("questions.jsonl", "questions", schema.QUESTIONS, question_rows),
    ("captions.json", "captions", schema.IMAGE_CAPTIONS, caption_rows),
    ("compositionality.json", "compositionality", schema.COMPOSITIONALITY, compositionality_rows),
)
