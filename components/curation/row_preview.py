"""Preview of the first rows of a source, checked as curation does, before anything is paid for."""

from collections import Counter
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from components import schema
from components.curation.candidates import Candidate, CandidateParams, check_row
from components.curation.pieces import piece_rows
from components.curation.training_sources import Piece, Source, pieces_of_file, read_piece
from components.files.storage import join, matching_files, open_file
from components.files.tars import read_keys


class Preview(NamedTuple):
    """The first rows of a source, and estimates of all of them."""

    num_files: int
    num_bytes: int  # of all files
    estimated_rows: int  # of all files, if they are like the first
    rows: list[Candidate]  # the first of the first file

    @property
    def accepted(self) -> list[Candidate]:
        return [row for row in self.rows if row[schema.REASON] is None]

    @property
    def curated_bytes(self) -> int:
        """Bytes of the pictures of all rows as PNG, if they are like the first."""
        sizes = [len(row[schema.IMAGE] or b"") for row in self.accepted]
        return round(self.estimated_rows * sum(sizes) / max(len(self.rows), 1))

    @property
    def rejects(self) -> dict[str, int]:
        """Numbers of rows by reason, the commonest first."""
        reasons = Counter(row[schema.REASON] for row in self.rows)
        del reasons[None]  # accepted rows
        return dict(reasons.most_common())

    @property
    def details(self) -> list[str]:
        """Faults in words: one example per reason."""
        # the first row of a reason is its example
        found: dict[str, str] = {}
        for row in self.rows:
            found.setdefault(row[schema.REASON], f"{row[schema.SAMPLE_ID]}: {row[schema.DETAIL]}")
        return [f"{reason} ({found[reason]})" for reason in self.rejects]


def preview_source(
    name: str, source: Source, raw: Path, params: CandidateParams, num_rows: int
) -> Preview:
    """Look at the first rows of a source. Raises ValueError for no files, or a broken first one."""
    # the first rows of the first file, no more than are asked for
    places = matching_files(join(str(raw), source.files))
    pieces = list(pieces_of_file(source, places[0]))
    rows = chain.from_iterable(piece_rows(name, source, piece, raw, params) for piece in pieces)
    checked = [check_row(row) for row in islice(rows, num_rows)]

    # The other files are taken to have rows of the same size.
    sizes = [size_of(place) for place in places]
    rows_of_first = sum(count_rows(source, piece) for piece in pieces)
    estimated_rows = round(rows_of_first * sum(sizes) / max(sizes[0], 1))
    return Preview(len(places), sum(sizes), estimated_rows, checked)


def count_rows(source: Source, piece: Piece) -> int:
    """Count the rows of a piece; in a damaged tar, only the rows before the damage."""
    if piece.num_rows is not None:
        return piece.num_rows
    if piece.kind == "tar":
        return len(set(read_keys(piece.place)))
    return sum(1 for _ in read_piece(piece, source))


def size_of(place: str) -> int:
    """Return the bytes of a file."""
    with open_file(place) as file:
        return file.seek(0, 2)
