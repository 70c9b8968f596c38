"""The raw folder as pieces of work of about equal size, and what one piece of work does.

    instruct/*.json or *.jsonl, pictures beside them         instruction rows
    captions/*.tar                                           caption pairs, one piece per tar
    evaluation/{validation,test}/pictures/                   evaluation pictures

A piece of work is plain text and numbers, so that it can be sent to any machine that sees the raw folder.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from components import schema
from components.curation.benchmarks import PICTURES
from components.curation.candidates import (
    CONTENT_SHA256,
    NEAR_HASH,
    REPAIRS,
    Candidate,
    CandidateParams,
    caption_candidate,
    instruct_candidate,
    picture_candidate,
)
from components.curation.deduplication import Checked
from components.curation.sources import decode_entries, encode_entries, list_pictures, read_entries, read_shard
from components.curation.tables import staging_path, write_staging

INSTRUCT, CAPTIONS = "instruct", "captions"
EVALUATION_SPLITS = (schema.VALIDATION, schema.TEST)


class Work(NamedTuple):
    """One piece: `payload` is rows as text for instruction data, a tar's name for captions, names of pictures else."""

    task: int
    source: str
    payload: str
    num_rows: int | None  # None: only reading the tar tells


def pictures_source(split: str) -> str:
    """Name of the source of evaluation pictures."""
    return f"evaluation/{split}/{PICTURES}"


def list_work(raw: Path, rows_per_task: int) -> list[Work]:
    """All pieces, numbered in input order. Raises ValueError when a part of the raw folder is missing."""
    pieces = [*_list_instruct(raw, rows_per_task), *_list_captions(raw)]
    for split in EVALUATION_SPLITS:
        pieces += _list_pictures(raw, split, rows_per_task)
    return [Work(task, *piece) for task, piece in enumerate(pieces)]


def encode_work(work: Work) -> str:
    """One piece as text; `decode_work` gives it back."""
    return json.dumps(work)


def decode_work(text: str) -> Work:
    """What `encode_work` was given."""
    return Work(*json.loads(text))


def count_rows_in(work: Sequence[Work], rows: Sequence[Checked]) -> dict[str, int]:
    """Input rows per source as the listing counted them; of a tar, as its reader counted them."""
    from_tars = Counter(row.task for row in rows)
    counts: Counter[str] = Counter()
    for piece in work:
        counts[piece.source] += from_tars[piece.task] if piece.num_rows is None else piece.num_rows
    return dict(counts)


def check_work(work: Work, raw: Path, staging: Path, params: CandidateParams) -> list[Checked]:
    """Check every row of one piece; accepted rows go to its staging file, the facts about all rows come back."""
    checked: list[Checked] = []
    accepted: list[Candidate] = []
    for row in _candidates(work, raw, params):
        is_accepted = row[schema.REASON] is None
        checked.append(_facts(row, work.task, len(checked), len(accepted) if is_accepted else -1))
        if is_accepted:
            accepted.append(row)
    write_staging(accepted, staging_path(staging, work.task))
    return checked


def _list_instruct(raw: Path, rows_per_task: int) -> Iterator[tuple[str, str, int]]:
    for path in _files(raw / INSTRUCT, ".json", ".jsonl"):
        entries = read_entries(path)
        for start in range(0, len(entries), rows_per_task):
            chunk = entries[start : start + rows_per_task]
            yield INSTRUCT, encode_entries(chunk), len(chunk)


def _list_captions(raw: Path) -> Iterator[tuple[str, str, None]]:
    for path in _files(raw / CAPTIONS, ".tar"):
        yield CAPTIONS, path.name, None


def _list_pictures(raw: Path, split: str, rows_per_task: int) -> Iterator[tuple[str, str, int]]:
    names = list_pictures(raw / pictures_source(split))
    if not names:
        raise ValueError(f"{raw / pictures_source(split)}: no pictures; `curate` needs an evaluation corpus per split")
    for start in range(0, len(names), rows_per_task):
        chunk = names[start : start + rows_per_task]
        yield pictures_source(split), json.dumps(chunk), len(chunk)


def _files(folder: Path, *suffixes: str) -> list[Path]:
    found = sorted(path for path in folder.glob("*") if path.suffix in suffixes)
    if not found:
        raise ValueError(
            f"{folder}: no {' or '.join(suffixes)} file; is this the raw folder, and is the download complete?"
        )
    return found


def _candidates(work: Work, raw: Path, params: CandidateParams) -> Iterator[Candidate]:
    if work.source == INSTRUCT:
        for entry in decode_entries(work.payload):
            yield instruct_candidate(work.source, raw / INSTRUCT, entry, params)
    elif work.source == CAPTIONS:
        for sample in read_shard(raw / CAPTIONS / work.payload, params.max_file_bytes):
            yield caption_candidate(work.source, sample, params)
    else:
        for name in json.loads(work.payload):
            yield picture_candidate(work.source, raw / work.source, name, params)


def _facts(row: Candidate, task: int, number: int, position: int) -> Checked:
    return Checked(
        sample_id=row[schema.SAMPLE_ID],
        source=row[schema.SOURCE],
        task=task,
        number=number,
        position=position,
        image_sha256=row[schema.IMAGE_SHA256],
        near_hash=row[NEAR_HASH],
        content_sha256=row[CONTENT_SHA256],
        repairs=tuple(row[REPAIRS]),
        reason=row[schema.REASON],
        detail=row[schema.DETAIL] or "",
    )
