"""Sources and evaluation pictures as pieces of work of about equal size, and what one piece of work does.

A piece of work is plain text and numbers, so that it can be sent to any machine that sees the raw
folder and the staging folder.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from components import schema
from components.curation.candidates import (
    CANDIDATES,
    CandidateParams,
    RawRow,
    caption_row,
    check_row,
    instruct_row,
    pair_row,
    picture_row,
    refuse_row,
)
from components.curation.database import ROWS_AT_ONCE
from components.curation.evaluation_files import PICTURES, check_files
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
    """One piece: of a source, or names of evaluation pictures as JSON."""

    task: int
    source: str
    num_rows: int | None  # None: only reading it tells
    piece: Piece | None
    pictures: str


def pictures_source(split: str) -> str:
    """Name of the source of evaluation pictures."""
    return f"evaluation/{split}/{PICTURES}"


def list_work(
    raw: Path,
    staging: Path,
    sources: Mapping[str, Source],
    rows_per_task: int,
    allowed_roots: Sequence[str] = (),
) -> list[Work]:
    """All pieces, numbered in input order; `allowed_roots`: what linked folders of pictures may lead into.

    Raises ValueError when a source or an evaluation file is missing.
    """
    check_no_file_twice(raw, sources)
    check_files(raw, EVALUATION_SPLITS)
    pieces: list[tuple[str, int | None, Piece | None, str]] = [
        (name, piece.num_rows, piece, "")
        for name, source in sources.items()
        for piece in list_pieces(source, raw, staging, name, rows_per_task)
    ]
    for split in EVALUATION_SPLITS:
        pieces += _list_pictures(raw, split, rows_per_task, allowed_roots)
    return [Work(task, *piece) for task, piece in enumerate(pieces)]


def check_no_file_twice(raw: Path, sources: Mapping[str, Source]) -> None:
    """Raises ValueError that names a file which two sources read: every row of it would be there twice."""
    reader: dict[str, str] = {}
    for name, source in sources.items():
        for place in matching_files(join(str(raw), source.files)):
            if place in reader:
                raise ValueError(
                    f"curate.sources: {place} is read by {reader[place]} and by {name}; name it once"
                )
            reader[place] = name


def encode_work(work: Work) -> str:
    """One piece as text; `decode_work` gives it back."""
    return json.dumps(work)


def decode_work(text: str) -> Work:
    """What `encode_work` was given."""
    work = Work(*json.loads(text))
    return work._replace(piece=None if work.piece is None else Piece(*work.piece))


def count_rows_in(
    work: Sequence[Work], found: Mapping[int, int], sources: Iterable[str]
) -> dict[str, int]:
    """Input rows per source as the listing counted them; of a tar or Arrow file, what its task `found`."""
    counts: Counter[str] = Counter(dict.fromkeys(sources, 0))
    for piece in work:
        counts[piece.source] += (
            found.get(piece.task, 0) if piece.num_rows is None else piece.num_rows
        )
    return dict(counts)


def check_work(
    work: Work, raw: Path, staging: Path, sources: Mapping[str, Source], params: CandidateParams
) -> int:
    """Check every row of one piece; accepted rows go to its staging file, then the facts about all rows to theirs.

    Returns the number of rows.
    """
    with (
        TableWriter(facts_path(staging, work.task), FACTS, "zstd", ROWS_AT_ONCE) as facts,
        RowWatch(staging / "running" / f"task-{work.task:06d}") as watch,
        # Uncompressed: the pictures are PNG.
        TableWriter(
            staging_path(staging, work.task), CANDIDATES, "none", ROWS_PER_GROUP
        ) as accepted,
    ):
        for number, raw_row in enumerate(_rows(work, raw, sources, params)):
            row = check_row(raw_row) if watch.begin(number) else refuse_row(raw_row, KILLER)
            watch.end()
            position = accepted.add(row) if row[schema.REASON] is None else None
            place = {TASK: work.task, NUMBER: number, POSITION: position}
            facts.add(place | {name: row[name] for name in FACTS.names if name not in place})
    return facts.num_rows


def _list_pictures(
    raw: Path, split: str, rows_per_task: int, allowed_roots: Sequence[str]
) -> Iterator[tuple[str, int, None, str]]:
    names = sorted(
        file.name for file in list_files(str(raw / pictures_source(split)), allowed_roots)
    )
    if not names:
        raise ValueError(
            f"{raw / pictures_source(split)}: no pictures; `curate` needs an evaluation corpus per split"
        )
    for start in range(0, len(names), rows_per_task):
        chunk = names[start : start + rows_per_task]
        yield pictures_source(split), len(chunk), None, json.dumps(chunk)


def _rows(
    work: Work, raw: Path, sources: Mapping[str, Source], params: CandidateParams
) -> Iterator[RawRow]:
    if work.piece is not None:
        yield from piece_rows(work.source, sources[work.source], work.piece, raw, params)
        return
    for name in json.loads(work.pictures):
        yield picture_row(work.source, str(raw / work.source), name, params)


def piece_rows(
    name: str, source: Source, piece: Piece, raw: Path, params: CandidateParams
) -> Iterator[RawRow]:
    """The rows of a piece of the source called `name`."""
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
