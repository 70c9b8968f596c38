"""Pieces of work of about equal size: parts of sources, and evaluation pictures.

A piece of work is plain text and numbers, so that it can be sent to any machine that sees the raw
folder and the staging folder.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from components import schema
from components.curation.candidates import (
    CANDIDATES,
    CandidateParams,
    RawRow,
    check_row,
    refuse_row,
)
from components.curation.database import ROWS_AT_ONCE
from components.curation.evaluation_files import PICTURES, check_files
from components.curation.raw_rows import caption_row, instruct_row, pair_row, picture_row
from components.curation.reasons import Reason, Rejected
from components.curation.training_sources import (
    LlavaSource,
    Piece,
    Source,
    WebdatasetSource,
    list_pieces,
    read_piece,
)
from components.curation.written_tables import (
    FACTS,
    NUMBER,
    POSITION,
    ROWS_PER_GROUP,
    TASK,
    TableWriter,
    facts_path,
    staging_path,
)
from components.files.listing import list_files
from components.files.row_watch import RowWatch
from components.files.storage import join, matching_files
from components.files.tars import read_shard

KILLER = Rejected(Reason.KILLS_DECODER, "every process that read it ended without a word")
EVALUATION_SPLITS = (schema.VALIDATION, schema.TEST)


class Work(NamedTuple):
    """A piece of work: a part of a source, or names of evaluation pictures."""

    task: int
    source: str
    num_rows: int | None  # None: only reading it tells
    piece: Piece | None
    pictures: tuple[str, ...] = ()


def pictures_source(split: str) -> str:
    """Return the name of the source of the evaluation pictures of a split."""
    return f"evaluation/{split}/{PICTURES}"


def list_work(
    raw: Path,
    staging: Path,
    sources: Mapping[str, Source],
    rows_per_task: int,
    allowed_roots: Sequence[str] = (),
) -> list[Work]:
    """Return all pieces of work, numbered in input order.

    `allowed_roots`: what linked folders of pictures may lead into. Raises ValueError when a source
    or an evaluation file is missing.
    """
    check_no_file_twice(raw, sources)
    check_files(raw, EVALUATION_SPLITS)

    # The number of a piece is its place in the input, by which all rows are ordered.
    work: list[Work] = []
    for name, source in sources.items():
        for piece in list_pieces(source, raw, staging, name, rows_per_task):
            work.append(Work(len(work), name, piece.num_rows, piece))

    for split in EVALUATION_SPLITS:
        for names in _list_pictures(raw, split, rows_per_task, allowed_roots):
            work.append(Work(len(work), pictures_source(split), len(names), None, tuple(names)))
    return work


def check_no_file_twice(raw: Path, sources: Mapping[str, Source]) -> None:
    """Raise ValueError that names a file of two sources: each of its rows would be there twice."""
    reader: dict[str, str] = {}
    for name, source in sources.items():
        for place in matching_files(join(str(raw), source.files)):
            if place in reader:
                raise ValueError(
                    f"curate.sources: {place} is read by {reader[place]} and by {name}; "
                    "name it once"
                )
            reader[place] = name


def encode_work(work: Work) -> str:
    """Write a piece of work as text; `decode_work` gives it back."""
    return json.dumps(work)


def decode_work(text: str) -> Work:
    """Read a piece of work from the text of `encode_work`."""
    work = Work(*json.loads(text))
    piece = None if work.piece is None else Piece(*work.piece)
    return work._replace(piece=piece, pictures=tuple(work.pictures))


def count_rows_in(
    work: Sequence[Work], found: Mapping[int, int], sources: Iterable[str]
) -> dict[str, int]:
    """Return the input rows per source as listed; tars and Arrow files count as `found` by task."""
    counts: Counter[str] = Counter(dict.fromkeys(sources, 0))
    for piece in work:
        num_rows = piece.num_rows
        # A task without rows is not among those that were found.
        counts[piece.source] += found.get(piece.task, 0) if num_rows is None else num_rows
    return dict(counts)


def check_work(
    work: Work, raw: Path, staging: Path, sources: Mapping[str, Source], params: CandidateParams
) -> int:
    """Check every row of a piece of work; return their number.

    Accepted rows go to its staging file, then the facts about all rows to theirs.
    """
    facts_file, staging_file = facts_path(staging, work.task), staging_path(staging, work.task)
    with (
        TableWriter(facts_file, FACTS, "zstd", ROWS_AT_ONCE) as facts,
        RowWatch(staging / "running" / f"task-{work.task:06d}") as watch,
        # Uncompressed: the pictures are PNG.
        TableWriter(staging_file, CANDIDATES, "none", ROWS_PER_GROUP) as accepted,
    ):
        for number, raw_row in enumerate(_rows(work, raw, sources, params)):
            # A row at which several processes ended is not decoded again.
            row = check_row(raw_row) if watch.begin(number) else refuse_row(raw_row, KILLER)
            watch.end()

            # Facts leave out the picture: one process reads the facts of all pieces.
            position = accepted.add(row) if row[schema.REASON] is None else None
            fact: dict[str, Any] = {TASK: work.task, NUMBER: number, POSITION: position}
            for name in FACTS.names:
                if name not in fact:
                    fact[name] = row[name]
            facts.add(fact)
    return facts.num_rows


def _list_pictures(
    raw: Path, split: str, rows_per_task: int, allowed_roots: Sequence[str]
) -> Iterator[list[str]]:
    """Yield the names of the evaluation pictures of a split, some at a time."""
    folder = raw / pictures_source(split)
    names = sorted(file.name for file in list_files(str(folder), allowed_roots))
    if not names:
        raise ValueError(f"{folder}: no pictures; `curate` needs an evaluation corpus per split")
    for start in range(0, len(names), rows_per_task):
        yield names[start : start + rows_per_task]


def _rows(
    work: Work, raw: Path, sources: Mapping[str, Source], params: CandidateParams
) -> Iterator[RawRow]:
    if work.piece is not None:
        yield from piece_rows(work.source, sources[work.source], work.piece, raw, params)
        return
    for name in work.pictures:
        yield picture_row(work.source, str(raw / work.source), name, params)


def piece_rows(
    name: str, source: Source, piece: Piece, raw: Path, params: CandidateParams
) -> Iterator[RawRow]:
    """Yield the rows of a piece of the source called `name`."""
    if isinstance(source, WebdatasetSource):
        for sample in read_shard(piece.place, params.max_file_bytes):
            yield caption_row(name, sample, params)
        return

    root = None if source.pictures is None else join(str(raw), source.pictures)
    for entry in read_piece(piece, source):
        if isinstance(source, LlavaSource):
            yield instruct_row(name, str(root), entry, params)
        else:
            yield pair_row(name, root, entry, params)
