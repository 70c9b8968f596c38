"""The first rows of every source, checked as curation checks them, before anything is paid for."""

import tarfile
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from components import schema
from components.curation import captions
from components.curation.candidates import (
    Candidate,
    CandidateParams,
    caption_candidate,
    instruct_candidate,
    pair_candidate,
)
from components.curation.sources import LlavaSource, Piece, Source, WebdatasetSource, read_piece, read_rows
from components.curation.storage import join, matching_files, open_file
from components.curation.tars import TAR_ERRORS, read_shard, split_member_name


class Preview(NamedTuple):
    """What the first rows of a source came to."""

    num_files: int
    num_bytes: int  # of all files
    estimated_rows: int  # of all files, if they are like the first
    rows: list[Candidate]  # the first of the first file

    @property
    def accepted(self) -> list[Candidate]:
        return [row for row in self.rows if row[schema.REASON] is None]

    @property
    def curated_bytes(self) -> int:
        """What the pictures of all rows take as PNG, if they are like the first."""
        sizes = [len(row[schema.IMAGE] or b"") for row in self.accepted]
        return round(self.estimated_rows * sum(sizes) / max(len(self.rows), 1))

    @property
    def rejects(self) -> dict[str, int]:
        """How many rows by reason, the commonest first."""
        reasons = Counter(row[schema.REASON] for row in self.rows if row[schema.REASON] is not None)
        return dict(reasons.most_common())

    @property
    def details(self) -> list[str]:
        """What was wrong, in words: one example per reason."""
        found = {row[schema.REASON]: f"{row[schema.SAMPLE_ID]}: {row[schema.DETAIL]}" for row in reversed(self.rows)}
        return [f"{reason} ({found[reason]})" for reason in self.rejects]


def preview_source(name: str, source: Source, raw: Path, params: CandidateParams, num_rows: int) -> Preview:
    """Look at the first rows of a source. Raises ValueError when there are no files, or the first is broken."""
    places = matching_files(join(str(raw), source.files))
    rows = list(islice(_candidates(name, source, raw, places[0], params), num_rows))
    sizes = [size_of(place) for place in places]
    estimated_rows = round(count_rows(source, places[0]) * sum(sizes) / max(sizes[0], 1))
    return Preview(len(places), sum(sizes), estimated_rows, rows)


def count_rows(source: Source, place: str) -> int:
    """Rows of one file; of a tar that is damaged, those before the damage."""
    if isinstance(source, WebdatasetSource):
        return len(set(_keys(place)))
    if place.endswith((".parquet", ".arrow")):
        piece = _first_piece(place)
        return piece.num_rows or sum(1 for _ in read_piece(piece, source))
    return sum(1 for _ in read_rows(source, place))


def size_of(place: str) -> int:
    """Bytes of a file."""
    with open_file(place) as file:
        return file.seek(0, 2)


def _candidates(name: str, source: Source, raw: Path, place: str, params: CandidateParams) -> Iterable[Candidate]:
    if isinstance(source, WebdatasetSource):
        return (caption_candidate(name, sample, params) for sample in read_shard(place, params.max_file_bytes))
    root = None if source.pictures is None else join(str(raw), source.pictures)
    if place.endswith((".parquet", ".arrow")):
        entries = read_piece(_first_piece(place), source)
    else:
        entries = read_rows(source, place)
    if isinstance(source, LlavaSource):
        return (instruct_candidate(name, str(root), entry, params) for entry in entries)
    return (pair_candidate(name, root, entry, params) for entry in entries)


def _keys(place: str) -> Iterable[str]:
    """The keys of a shard, from its headers alone."""
    with suppress(*TAR_ERRORS), open_file(place) as file, tarfile.open(fileobj=file, mode="r:*") as archive:
        for member in archive:
            yield split_member_name(member.name)[0]


def _first_piece(place: str) -> Piece:
    """The first rows of a table; `num_rows` of Parquet is that of the whole file."""
    if place.endswith(".arrow"):
        return Piece("stream", place, 0, None)
    try:
        with open_file(place) as file:
            return Piece("row_group", place, 0, pq.ParquetFile(file).metadata.num_rows)
    except captions.TABLE_ERRORS as error:
        raise ValueError(f"{place}: is no Parquet file ({error}); fetch the file again") from None
