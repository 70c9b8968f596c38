"""Evaluation files -> rows of the evaluation tables: questions, COCO captions, SugarCrepe pairs.

Evaluation data are never deduplicated or repaired beyond control characters: a benchmark is what
its authors published. A row goes only when it cannot be used: a field is missing, or its picture is
not in the curated corpus.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import product
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

QUESTIONS = "questions.jsonl"
CAPTIONS = "captions.json"
COMPOSITIONALITY = "compositionality.json"
PICTURES = "pictures"  # the folder beside them that holds their pictures
Row = dict[str, Any]
Pictures = Mapping[str, bool]  # image id -> whether it was kept


class TextCleaner:
    """The rules for text fields, and the repairs that one row needed."""

    def __init__(self, limits: TextLimits) -> None:
        self.limits = limits
        self.repairs: set[str] = set()

    def text(self, value: object) -> str:
        """Return a text field without control characters. Raises Rejected."""
        cleaned, is_repaired = clean_text(value)
        if not cleaned:
            raise Rejected(Reason.EMPTY_TEXT, "an empty text field")
        if len(cleaned) > self.limits.max_turn_characters:
            raise Rejected(Reason.TEXT_TOO_LONG, f"{len(cleaned)} characters")
        if is_repaired:
            self.repairs.add(Repair.CONTROL_CHARACTERS.value)
        return cleaned

    def texts(self, values: object) -> list[str]:
        """Return a list of texts. Raises Rejected, also for an empty one."""
        if not isinstance(values, list) or not values:
            raise Rejected(Reason.BAD_RECORD, "answers and choices are lists of at least one text")
        return [self.text(value) for value in values]


Check = Callable[[Any, TextCleaner], Row]  # a record -> its row; raises Rejected


def write_benchmarks(
    raw: Path, output: Path, pictures: Mapping[str, Pictures], limits: TextLimits
) -> tuple[list[Outcome], dict[str, int]]:
    """Write the evaluation tables of every split.

    Return what became of each row, and the number of rows per source.
    """
    outcomes: list[Outcome] = []
    rows_in: dict[str, int] = {}

    # always in the same order, by which the rejects are written
    for split in sorted(pictures):
        for name, table, final, read in TABLES:
            source = f"evaluation/{split}/{table}"
            path = raw / "evaluation" / split / name
            rows, found = read(path, source, split, pictures[split], limits)
            write_rows(rows, final, output / table / f"{split}.parquet")
            outcomes += found
            rows_in[source] = len(found)
    return outcomes, rows_in


def check_files(raw: Path, splits: Iterable[str]) -> None:
    """Raise ValueError for evaluation files that are missing or broken as a whole.

    Rows take hours, this seconds.
    """
    # All that is missing is named at once.
    folders = [raw / "evaluation" / split for split in splits]
    missing = []
    for folder, name in product(folders, (QUESTIONS, CAPTIONS, COMPOSITIONALITY)):
        if not (folder / name).is_file():
            missing.append(str(folder / name))
    if missing:
        raise ValueError(
            f"{', '.join(missing)}: no such file; docs/data.md says what stands in one for no rows"
        )

    # A look at the first question; the other files are one document each.
    for folder in folders:
        next(read_entries(str(folder / QUESTIONS)), None)
        read_object(str(folder / CAPTIONS))
        read_subsets(folder / COMPOSITIONALITY)


def question_rows(
    path: Path, source: str, split: str, pictures: Pictures, limits: TextLimits
) -> tuple[list[Row], list[Outcome]]:
    """Return rows of schema.QUESTIONS from JSON lines."""

    def check(record: Any, clean: TextCleaner) -> Row:
        choices, group = record.get("choices"), record.get("group")
        return {
            schema.QUESTION_ID: identifier(record["question_id"]),
            schema.IMAGE_ID: find_picture(record["image"], pictures),
            schema.SPLIT: split,
            schema.BENCHMARK: _benchmark(clean.text(record["benchmark"])),
            schema.KIND: clean.text(record["kind"]),
            schema.QUESTION: clean.text(record["question"]),
            schema.ANSWERS: clean.texts(record["answers"]),
            schema.CHOICES: None if choices is None else clean.texts(choices),
            schema.GROUP: None if group is None else identifier(group),
        }

    entries = []
    for entry in read_entries(str(path)):
        entries.append((entry_name(entry, "question_id"), entry.value))
    return check_all(entries, source, check, limits)


def caption_rows(
    path: Path, source: str, split: str, pictures: Pictures, limits: TextLimits
) -> tuple[list[Row], list[Outcome]]:
    """Return rows of schema.IMAGE_CAPTIONS from a file in COCO format.

    There is one outcome per annotation, and one row per picture.
    """
    document = read_object(str(path))
    names = PictureNames(str(path), document)

    def check(record: Any, clean: TextCleaner) -> Row:
        return {
            schema.IMAGE_ID: find_picture(names.find(record["image_id"]), pictures),
            schema.CAPTION: clean.text(record["caption"]),
        }

    entries = []
    for number, annotation in enumerate(list_in(str(path), document, "annotations")):
        name = entry_name(Entry(f"annotation {number}", annotation), "id")
        entries.append((name, annotation))
    checked, outcomes = check_all(entries, source, check, limits)

    # A picture has several captions, which stand in any order in the file.
    captions: dict[str, list[str]] = {}
    for row in checked:
        captions.setdefault(row[schema.IMAGE_ID], []).append(row[schema.CAPTION])

    rows = []
    for image_id, found in sorted(captions.items()):
        rows.append({schema.IMAGE_ID: image_id, schema.SPLIT: split, schema.CAPTIONS: found})
    return rows, outcomes


def compositionality_rows(
    path: Path, source: str, split: str, pictures: Pictures, limits: TextLimits
) -> tuple[list[Row], list[Outcome]]:
    """Return rows of schema.COMPOSITIONALITY from a file in SugarCrepe format."""

    def check(record: Any, clean: TextCleaner) -> Row:
        return {
            schema.IMAGE_ID: find_picture(record["filename"], pictures),
            schema.SPLIT: split,
            schema.SUBSET: identifier(record["subset"]),
            schema.CAPTION: clean.text(record["caption"]),
            schema.NEGATIVE_CAPTION: clean.text(record["negative_caption"]),
        }

    # A key is unique within its subset only.
    entries = []
    for subset, rows in read_subsets(path).items():
        for key, row in rows.items():
            record = {**row, "subset": subset} if isinstance(row, dict) else row
            entries.append((f"{subset}/{key}", record))
    return check_all(entries, source, check, limits)


def read_subsets(path: Path) -> dict[str, dict[str, Any]]:
    """Read {subset: {key: row}}, SugarCrepe's files in one. Raises ValueError for anything else."""
    document = read_object(str(path))
    for subset, rows in document.items():
        if not isinstance(rows, dict):
            raise ValueError(
                f"{path}: the subset {shown(subset)} is a {type(rows).__name__}, "
                "not an object with a key for every row"
            )

        # SugarCrepe's own files hold one subset each, without its name.
        if "filename" in rows and not isinstance(rows["filename"], dict):
            raise ValueError(
                f"{path}: {shown(subset)} is a row, where a subset belongs; "
                "put the rows of a file into an object under the name of their subset"
            )
    return document


def check_all(
    entries: Iterable[tuple[str, Any]], source: str, check: Check, limits: TextLimits
) -> tuple[list[Row], list[Outcome]]:
    """Return the rows of the entries (name, record) that can be used, and an outcome for each."""
    rows: list[Row] = []
    outcomes: list[Outcome] = []
    seen: set[str] = set()

    for name, record in entries:
        # An id that was seen is taken, even if its row was rejected.
        entry_id, clean = printable(name), TextCleaner(limits)
        try:
            if entry_id in seen:
                raise Rejected(Reason.DUPLICATE_ID, "an earlier row has the same id")
            rows.append(_check_one(record, check, clean))
            outcomes.append(Outcome(entry_id, source, None, "", tuple(clean.repairs)))
        except Rejected as error:
            detail = printable(error.detail)
            outcomes.append(Outcome(entry_id, source, error.reason.value, detail, ()))
        seen.add(entry_id)
    return rows, outcomes


def _check_one(record: Any, check: Check, clean: TextCleaner) -> Row:
    if isinstance(record, Rejected):
        raise record
    if not isinstance(record, dict):
        raise Rejected(Reason.BAD_RECORD, f"{type(record).__name__} where an object belongs")
    try:
        return check(record, clean)
    except (KeyError, TypeError) as error:
        raise Rejected(Reason.BAD_RECORD, f"{type(error).__name__}: {error}") from None


def _benchmark(name: str) -> str:
    """Return the name of a benchmark that has a rule for scores. Raises Rejected."""
    if name not in schema.BENCHMARKS:
        known = ", ".join(schema.BENCHMARKS)
        raise Rejected(Reason.BAD_RECORD, f"the benchmark {shown(name)} is none of {known}")
    return name


def identifier(value: object) -> str:
    """Return an id as text. Raises Rejected."""
    text = id_text(value)
    if text is None:
        raise Rejected(Reason.BAD_RECORD, f"{shown(value)} is no id; write it as text")
    if not is_unicode(text):
        raise Rejected(Reason.BAD_ENCODING, f"the id {text!r} is not Unicode text")
    return text


def entry_name(entry: Entry, key: str) -> str:
    """Return the id of a record under `key`, or its place if it has none."""
    value = entry.value.get(key) if isinstance(entry.value, dict) else None
    return id_text(value) or entry.place


def find_picture(reference: str, pictures: Pictures) -> str:
    """Return the id of a picture, which a file names below the pictures folder or with it."""
    path = PurePosixPath(reference)
    image_id = (path.relative_to(PICTURES) if path.is_relative_to(PICTURES) else path).as_posix()
    if image_id not in pictures:
        raise Rejected(Reason.IMAGE_MISSING, image_id)
    if not pictures[image_id]:
        raise Rejected(Reason.PICTURE_REJECTED, image_id)
    return image_id


# Evaluation file, its table, the table's schema, the reader.
TABLES = (
    (QUESTIONS, "questions", schema.QUESTIONS, question_rows),
    (CAPTIONS, "captions", schema.IMAGE_CAPTIONS, caption_rows),
    (COMPOSITIONALITY, "compositionality", schema.COMPOSITIONALITY, compositionality_rows),
)
