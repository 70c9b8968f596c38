"""Sources of training rows in several formats, cut into pieces of work of about equal size.

| format | files | a row is |
|---|---|---|
| llava | .json (one array) or .jsonl: LLaVA-665k, ShareGPT4V, LLaVA-558k | a conversation |
| webdataset | .tar: CC3M as img2dataset writes it | a caption pair |
| table | .csv, .tsv, .jsonl, .parquet, .arrow (Hugging Face datasets on disk) | a caption pair |
| coco | COCO's captions_*.json | a caption of a picture that may have several |
| karpathy | dataset_coco.json, dataset_flickr30k.json | the same |
| flickr30k | results_20130124.token | the same |

Files and pictures are places below the raw folder, or URIs (`s3://bucket/…`).
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from components.curation import captions
from components.curation.records import Entry, decode_entries, encode_entries, read_entries
from components.files.delimited import DELIMITERS
from components.files.parquet import TABLE_ERRORS, check_names, open_parquet
from components.files.storage import join, matching_files
from components.params import Params

SourceName = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]*$")]  # part of ids and of file names
# below the raw folder, with * and ? in the last part; or a URI
Place = Annotated[str, Field(min_length=1)]


class LlavaSource(Params):
    """Conversations in LLaVA format."""

    format: Literal["llava"]
    files: Place
    pictures: Place  # root of the references


class WebdatasetSource(Params):
    """Caption pairs in tars."""

    format: Literal["webdataset"]
    files: Place


class TableSource(Params):
    """Caption pairs in tables."""

    format: Literal["table"]
    files: Place
    pictures: Place | None  # root of the references; null: the table holds the pictures
    id_column: str | None  # null: the place of a row is its id
    image_column: str
    caption_column: str


class CocoSource(Params):
    """Captions in COCO format."""

    format: Literal["coco"]
    files: Place
    pictures: Place


class KarpathySource(Params):
    """Captions in the format of Karpathy's splits."""

    format: Literal["karpathy"]
    files: Place
    pictures: Place
    splits: Annotated[tuple[Literal["train", "restval", "val", "test"], ...], Field(min_length=1)]


class Flickr30kSource(Params):
    """Captions in Flickr30k's own file."""

    format: Literal["flickr30k"]
    files: Place
    pictures: Place


Source = Annotated[
    LlavaSource | WebdatasetSource | TableSource | CocoSource | KarpathySource | Flickr30kSource,
    Field(discriminator="format"),
]
# In these a picture has one caption: a second row about it is a duplicate, whatever it says.
ONE_CAPTION_FORMATS = ("webdataset", "table")


class Piece(NamedTuple):
    """Rows that can be read by themselves: a file, a row group of one, or some rows of one."""

    kind: Literal["tar", "row_group", "stream", "text", "entries"]
    place: str
    group: int  # of a row group
    num_rows: int | None  # None: only reading it tells


def list_pieces(
    source: Source, raw: Path | str, staging: Path, name: str, rows_per_task: int
) -> Iterator[Piece]:
    """Yield the pieces of a source, in order.

    Rows that are read to find them go to files in the staging folder. Raises ValueError when there
    are no files, or one of them is broken as a whole.
    """
    places = matching_files(join(str(raw), source.files))
    if isinstance(source, KarpathySource):
        _check_splits(source, places)

    for number, place in enumerate(places):
        for piece in pieces_of_file(source, place):
            if piece.kind == "text":
                # A text can only be read from its beginning: its rows are cut into files.
                folder = staging / "rows" / name / f"{number:05d}"
                yield from write_pieces(read_piece(piece, source), folder, rows_per_task)
            else:
                yield piece


def pieces_of_file(source: Source, place: str) -> Iterator[Piece]:
    """Yield the parts of a file that can be read alone: row groups of Parquet, else all of it."""
    if place.endswith(".parquet"):
        yield from _row_groups(source, place)
    elif place.endswith(".arrow"):
        yield Piece("stream", place, 0, None)
    else:
        yield Piece("tar" if isinstance(source, WebdatasetSource) else "text", place, 0, None)


def read_piece(piece: Piece, source: Source) -> Iterator[Entry]:
    """Yield the entries of a piece that is no tar."""
    columns = _columns(source) if isinstance(source, TableSource) else {}
    if piece.kind == "entries":
        yield from decode_entries(Path(piece.place).read_text(encoding="utf-8"))
    elif piece.kind == "text":
        yield from read_rows(source, piece.place)
    elif piece.kind == "row_group":
        yield from captions.read_row_group(piece.place, piece.group, piece.num_rows or 0, columns)
    else:
        yield from captions.read_stream(piece.place, columns)


def read_rows(source: Source, place: str) -> Iterator[Entry]:
    """Return the entries of a text file of a source."""
    match source:
        case LlavaSource():
            return read_entries(place)
        case CocoSource():
            return captions.read_coco(place)
        case KarpathySource():
            return captions.read_karpathy(place, source.splits)
        case Flickr30kSource():
            return captions.read_flickr30k(place)

    if not isinstance(source, TableSource):
        raise AssertionError(f"{source.format} has no rows of text")
    if place.endswith(".jsonl"):
        return captions.read_json_rows(place, _columns(source))
    if place.endswith(tuple(DELIMITERS)):
        return captions.read_delimited(place, _columns(source))
    raise ValueError(f"{place}: a table is a .csv, .tsv, .jsonl, .parquet or .arrow file")


def write_pieces(entries: Iterator[Entry], folder: Path, rows_per_task: int) -> Iterator[Piece]:
    """Write entries into files of `rows_per_task`; yield a piece for each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(iter(lambda: list(islice(entries, rows_per_task)), [])):
        path = folder / f"{number:06d}.json"
        path.write_text(encode_entries(part), encoding="utf-8")
        yield Piece("entries", str(path), 0, len(part))


def _check_splits(source: KarpathySource, places: Sequence[str]) -> None:
    """Raise ValueError for a split that none of the files has a picture of."""
    there: set[str] = set()
    for place in places:
        there |= captions.karpathy_splits(place)
    if missing := [split for split in source.splits if split not in there]:
        found = ", ".join(sorted(there)) or "none"
        raise ValueError(
            f"{source.files}: no picture is of the split {' or '.join(missing)}; "
            f"its splits: {found}"
        )


def _row_groups(source: Source, place: str) -> Iterator[Piece]:
    assert isinstance(source, TableSource)

    # Only the footer is read here.
    try:
        with open_parquet(place) as table:
            metadata, names = table.metadata, table.schema_arrow.names
    except TABLE_ERRORS as error:
        raise ValueError(
            f"{place}: is no Parquet file, or not a whole one ({error}); fetch the file again"
        ) from None

    # A column that is missing fails the stage now, not hours later.
    captions.check_columns(place, names, _columns(source))
    check_names(place, names, list(_columns(source).values()))
    for group in range(metadata.num_row_groups):
        yield Piece("row_group", place, group, metadata.row_group(group).num_rows)


def _columns(source: TableSource) -> dict[str, str]:
    columns = {captions.IMAGE: source.image_column, captions.CAPTION: source.caption_column}
    return columns if source.id_column is None else {captions.ID: source.id_column, **columns}
