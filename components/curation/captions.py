"""Caption files of several formats -> entries of one: {"id", "image", "caption"}.

`image` is a reference below the source's root of pictures, or the bytes of the picture itself. Values are not checked
here; a row that lacks one of them is an entry with a `Rejected` in it.
"""

import csv
import difflib
from collections.abc import Iterator, Mapping, Sequence
from io import TextIOWrapper
from itertools import count
from typing import IO, Any

import pyarrow as pa

from components.curation.reasons import Reason, Rejected
from components.curation.records import Entry, file_names, list_in, read_entries, read_object
from components.files.parquet import TABLE_ERRORS, check_batch, check_names, open_parquet, read_batches, scalar_value
from components.files.storage import is_storage_fault, message, name_of, open_file
from components.files.unpacking import DamagedFileError

ID, IMAGE, CAPTION = "id", "image", "caption"
# How fields are told apart, by the end of the name. Quotes in a TSV are ordinary characters (CC3M's).
DIALECTS: dict[str, dict[str, Any]] = {
    ".csv": {"delimiter": ",", "strict": True},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # of Arrow
FIELD_LIMIT = 1_000_000  # characters; a quote that is never closed is noticed after so many
csv.field_size_limit(FIELD_LIMIT)


def read_delimited(place: str, columns: Mapping[str, str]) -> Iterator[Entry]:
    """Rows of a CSV or TSV file with a header. `columns`: which column is the id (if any), the image, the caption.

    Raises ValueError when the header lacks one of them.
    """
    name = name_of(place)
    with open_file(place) as file:  # what is not UTF-8 becomes lone surrogates, which no text may hold
        text = TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.DictReader(text, **DIALECTS[place[place.rindex(".") :]])
        try:
            header = list(reader.fieldnames or [])
        except csv.Error as error:
            raise ValueError(f"{place}: the header cannot be read ({error}); fetch the file again") from None
        check_columns(place, header, columns)
        for number in count(1):
            try:
                row = next(reader, None)
            except csv.Error as error:
                yield Entry(f"{name}:{number}", Rejected(Reason.BAD_RECORD, f"{name}:{number}: {error}"))
                continue
            if row is None:
                return
            yield _entry(name, number, row, columns)


def read_lines(place: str, columns: Mapping[str, str]) -> Iterator[Entry]:
    """Rows of a file with one JSON object per line."""
    for entry in read_entries(place):
        value = entry.value
        if isinstance(value, dict):
            value = {field: value.get(column) for field, column in columns.items()}
        elif not isinstance(value, Rejected):
            value = Rejected(Reason.BAD_RECORD, f"{entry.place}: {type(value).__name__} where an object belongs")
        yield Entry(entry.place, value)


def read_row_group(place: str, group: int, num_rows: int, columns: Mapping[str, str]) -> Iterator[Entry]:
    """Rows of one row group of a Parquet file; numbers count within it. Damage takes all rows from there on.

    Raises OSError when the disk or the network fails.
    """
    name = f"{name_of(place)}#{group}"
    num_read = 0
    try:
        with open_parquet(place) as table:
            for batch in read_batches(place, table, group, list(columns.values())):
                for entry in _batch_entries(name, num_read, batch, columns):
                    yield entry
                    num_read += 1
        return
    except TABLE_ERRORS as error:
        if is_storage_fault(error):
            raise
        fault = message(error)
    for number in range(num_read, num_rows):
        yield Entry(f"{name}:{number}", Rejected(Reason.UNREADABLE_SHARD, f"{name}: {fault}"))


def read_stream(place: str, columns: Mapping[str, str]) -> Iterator[Entry]:
    """Rows of an Arrow file as Hugging Face datasets saves it (IPC streams); one that is cut ends with a reject.

    Raises OSError when the disk or the network fails.
    """
    name = name_of(place)
    batches = count()
    try:
        with open_file(place) as file:
            size = file.seek(0, 2)
            file.seek(0)
            while file.tell() < size or not size:
                with pa.ipc.open_stream(file) as stream:
                    check_columns(place, stream.schema.names, columns)
                    check_names(place, stream.schema.names, list(columns.values()))
                    for batch in stream:
                        yield from _batch_entries(f"{name}#{next(batches)}", 0, batch, columns)
                _check_end(file)
    except TABLE_ERRORS as error:
        if is_storage_fault(error):
            raise
        yield Entry(name, Rejected(Reason.UNREADABLE_SHARD, f"{name}: {message(error)}"))


def read_coco(place: str) -> Iterator[Entry]:
    """Captions in COCO format: a row per annotation."""
    document = read_object(place)
    names = file_names(place, document)
    for number, row in enumerate(list_in(place, document, "annotations")):
        row = row if isinstance(row, dict) else {}
        image_id = row.get("image_id")
        image = names.get(image_id) if isinstance(image_id, str | int) else None
        value = {ID: row.get("id"), IMAGE: image, CAPTION: row.get("caption")}
        yield Entry(f"{name_of(place)}:{number}", value)


def read_karpathy(place: str, splits: Sequence[str]) -> Iterator[Entry]:
    """Captions of some splits in the format of Karpathy's COCO and Flickr30k files: a row per sentence."""
    for number, image in enumerate(list_in(place, read_object(place), "images")):
        if not isinstance(image, dict) or image.get("split") not in splits:
            continue
        reference = "/".join(str(part) for part in (image.get("filepath"), image.get("filename")) if part)
        sentences = image.get("sentences") if isinstance(image.get("sentences"), list) else []
        key = image.get("cocoid", image.get("imgid", number))
        for index, sentence in enumerate(sentences or []):
            caption = sentence.get("raw") if isinstance(sentence, dict) else None
            yield Entry(f"{name_of(place)}:{number}", {ID: f"{key}#{index}", IMAGE: reference, CAPTION: caption})


def read_flickr30k(place: str) -> Iterator[Entry]:
    """Lines of Flickr30k's token file: `1000092795.jpg#0<tab>Two young guys …`."""
    with open_file(place) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            key, tab, caption = line.decode("utf-8", "surrogateescape").rstrip("\r\n").partition("\t")
            where = f"{name_of(place)}:{number}"
            if tab:
                yield Entry(where, {ID: key, IMAGE: key.partition("#")[0], CAPTION: caption})
            else:
                yield Entry(where, Rejected(Reason.BAD_RECORD, f"{where}: no tab between picture and caption"))


def check_columns(place: str, present: Sequence[str], columns: Mapping[str, str]) -> None:
    """Raises ValueError that names the columns that a file lacks, and what they may be called there."""
    faults = []
    for column in columns.values():
        if column not in present:
            close = difflib.get_close_matches(column, present, n=1)
            faults.append(f"no column {column!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    if faults:
        raise ValueError(f"{place}: {', '.join(faults)} (its columns: {', '.join(map(repr, present)) or 'none'})")


def _entry(name: str, number: int, row: Mapping[Any, Any], columns: Mapping[str, str]) -> Entry:
    place = f"{name}:{number}"
    if None in row:
        return Entry(place, Rejected(Reason.BAD_RECORD, f"{place}: more fields than the header has"))
    return Entry(place, {field: row[column] for field, column in columns.items()})


def _batch_entries(name: str, start: int, batch: pa.RecordBatch, columns: Mapping[str, str]) -> Iterator[Entry]:
    """The rows of a batch one by one: a dictionary may hold one value for all of them."""
    check_batch(batch)
    arrays = {field: batch[column] for field, column in columns.items()}
    for number in range(len(batch)):
        place = f"{name}:{start + number}"
        try:
            value: Any = {field: scalar_value(array[number]) for field, array in arrays.items()}
        except (ValueError, OverflowError, pa.ArrowException) as error:  # a time that Python has no words for
            value = Rejected(Reason.BAD_RECORD, f"{place}: {message(error)}")
        else:
            if isinstance(value[IMAGE], dict):  # Hugging Face's pictures: {"bytes", "path"}
                value[IMAGE] = value[IMAGE].get("bytes") or value[IMAGE].get("path")
        yield Entry(place, value)


def _check_end(file: IO[bytes]) -> None:
    """Raises DamagedFileError where a stream ends without saying so: pyarrow does not mind."""
    at = file.tell()
    file.seek(max(at - len(END_OF_STREAM), 0))
    if file.read(len(END_OF_STREAM)) != END_OF_STREAM:
        raise DamagedFileError("the file has no end mark: it was cut")
