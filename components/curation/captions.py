"""Caption files of several formats -> entries of one: {"id", "image", "caption"}.

`image` is a reference below the source's root of pictures, or the bytes of the picture itself.
Values are not checked here; a row that lacks one of them is an entry with a `Rejected` in it.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import IO, Any

import pyarrow as pa

from components.curation.reasons import Reason, Rejected
from components.curation.records import (
    Entry,
    PictureNames,
    id_text,
    list_in,
    read_entries,
    read_object,
    rejected_line,
    shown,
)
from components.files.delimited import read_table
from components.files.lines import Fault, read_lines
from components.files.parquet import (
    TABLE_ERRORS,
    check_batch,
    check_names,
    open_parquet,
    read_batches,
    scalar_value,
)
from components.files.storage import is_storage_fault, message, name_of, open_file
from components.files.unpacking import DamagedFileError

ID, IMAGE, CAPTION = "id", "image", "caption"
KARPATHY_SPLITS = ("train", "restval", "val", "test")
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # of Arrow
ARROW_FILE = b"ARROW1"  # what Arrow's other format, with a footer, begins with
# What Python raises of a value that it has no words for, such as a time after the year 9999.
VALUE_ERRORS = (ValueError, OverflowError, pa.ArrowException)


def read_delimited(place: str, columns: Mapping[str, str]) -> Iterator[Entry]:
    """Yield the rows of a CSV or TSV file with a header.

    `columns`: which column is the id (if any), the image, the caption. Raises ValueError when the
    header lacks one of them, or has one twice.
    """
    name = name_of(place)

    def choose(header: Sequence[str]) -> Sequence[str]:
        check_columns(place, header, columns)
        return list(dict.fromkeys(columns.values()))

    # Only captions go over several lines.
    single_line = [column for field, column in columns.items() if field != CAPTION]
    for number, row in enumerate(read_table(place, choose, single_line), start=1):
        if isinstance(row.values, Fault):
            value: Any = rejected_line(row.values)
        else:
            value = {field: row.values[column] for field, column in columns.items()}
        yield Entry(f"{name}:{number}", value)


def read_json_rows(place: str, columns: Mapping[str, str]) -> Iterator[Entry]:
    """Yield the rows of a file with one JSON object per line."""
    for entry in read_entries(place):
        value = entry.value
        if isinstance(value, dict):
            value = {field: value.get(column) for field, column in columns.items()}
        elif not isinstance(value, Rejected):
            what = f"{entry.place}: {type(value).__name__} where an object belongs"
            value = Rejected(Reason.BAD_RECORD, what)
        yield Entry(entry.place, value)


def read_row_group(
    place: str, group: int, num_rows: int, columns: Mapping[str, str]
) -> Iterator[Entry]:
    """Yield the rows of one row group of a Parquet file; numbers count within it.

    Damage takes all rows from there on. Raises OSError when the disk or the network fails.
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
        # What can be read in a minute is not lost.
        if is_storage_fault(error):
            raise
        fault = message(error)

    # The footer has promised them: each row that is lost is accounted for.
    for number in range(num_read, num_rows):
        yield _rejected(f"{name}:{number}", Reason.UNREADABLE_SHARD, f"{name}: {fault}")


def read_stream(place: str, columns: Mapping[str, str]) -> Iterator[Entry]:
    """Yield the rows of an Arrow file; one that is cut ends with a reject.

    It holds IPC streams, as Hugging Face datasets saves them, or is of the format with a footer
    (Feather). Raises OSError when the disk or the network fails.
    """
    name = name_of(place)
    batches = count()
    try:
        with open_file(place) as file:
            size = file.seek(0, 2)
            file.seek(0)
            is_with_footer = file.read(len(ARROW_FILE)) == ARROW_FILE
            file.seek(0)
            if is_with_footer:  # whose batches are read by number
                yield from _read_arrow_file(place, file, columns)
                return

            # streams may follow one another; a file without a byte is a fault of the first
            while file.tell() < size or not size:
                with pa.ipc.open_stream(file) as stream:
                    _check_schema(place, stream.schema.names, columns)
                    for batch in stream:
                        yield from _batch_entries(f"{name}#{next(batches)}", 0, batch, columns)
                _check_end(file)
    except TABLE_ERRORS as error:
        if is_storage_fault(error):
            raise
        yield _rejected(name, Reason.UNREADABLE_SHARD, f"{name}: {message(error)}")


def read_coco(place: str) -> Iterator[Entry]:
    """Yield captions in COCO format: a row per annotation."""
    document = read_object(place)
    names = PictureNames(place, document)
    for number, row in enumerate(list_in(place, document, "annotations")):
        yield Entry(f"{name_of(place)}:{number}", _coco_row(row, names))


def read_karpathy(place: str, splits: Sequence[str]) -> Iterator[Entry]:
    """Yield captions of some splits of Karpathy's COCO and Flickr30k files: a row per sentence.

    Pictures of the other splits are no rows; one of a split that nobody knows is a reject.
    """
    for number, image in enumerate(list_in(place, read_object(place), "images")):
        where = f"{name_of(place)}:{number}"
        split = image.get("split") if isinstance(image, dict) else None
        if split not in KARPATHY_SPLITS:
            yield _rejected(where, Reason.BAD_RECORD, f"{where}: the split is {shown(split)}")
        elif split in splits:
            yield from _sentences(where, number, image)


def karpathy_splits(place: str) -> set[str]:
    """Return the splits that a file of Karpathy's has pictures of."""
    found = set()
    for image in list_in(place, read_object(place), "images"):
        split = image.get("split") if isinstance(image, dict) else None
        if split in KARPATHY_SPLITS:
            found.add(split)
    return found


def read_flickr30k(place: str) -> Iterator[Entry]:
    """Yield lines of Flickr30k's token file: `1000092795.jpg#0<tab>Two young guys …`."""
    for number, content in read_lines(place):
        where = f"{name_of(place)}:{number}"
        if isinstance(content, Fault):
            yield Entry(where, rejected_line(content))
            continue
        if not content.strip():
            continue

        # Lines of another system would be one long line.
        if b"\r" in content.strip():
            why = "a carriage return inside the line; lines end with line feeds"
            yield _rejected(where, Reason.BAD_RECORD, f"{where}: {why}")
            continue

        key, tab, caption = content.decode("utf-8", "surrogateescape").partition("\t")
        if tab:
            yield Entry(where, {ID: key, IMAGE: key.partition("#")[0], CAPTION: caption})
        else:
            why = "no tab between picture and caption"
            yield _rejected(where, Reason.BAD_RECORD, f"{where}: {why}")


def check_columns(place: str, present: Sequence[str], columns: Mapping[str, str]) -> None:
    """Raise ValueError that names the columns that a file lacks or has twice, and similar ones."""
    faults = []
    for column in columns.values():
        if list(present).count(column) > 1:
            faults.append(f"several columns {column!r}; rename all but one")

        if column not in present:
            close = difflib.get_close_matches(column, present, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            faults.append(f"no column {column!r}{hint}")

    if faults:
        names = ", ".join(map(repr, present)) or "none"
        raise ValueError(f"{place}: {', '.join(faults)} (its columns: {names})")


def _rejected(place: str, reason: Reason, detail: str) -> Entry:
    return Entry(place, Rejected(reason, detail))


def _check_schema(place: str, names: Sequence[str], columns: Mapping[str, str]) -> None:
    check_columns(place, names, columns)
    check_names(place, names, list(columns.values()))


def _read_arrow_file(place: str, file: IO[bytes], columns: Mapping[str, str]) -> Iterator[Entry]:
    """Yield the rows of an Arrow file with a footer. Raises one of TABLE_ERRORS at damage."""
    with pa.ipc.open_file(file) as table:
        _check_schema(place, table.schema.names, columns)
        for number in range(table.num_record_batches):
            name = f"{name_of(place)}#{number}"
            yield from _batch_entries(name, 0, table.get_batch(number), columns)


def _coco_row(row: Any, names: PictureNames) -> Any:
    if not isinstance(row, dict):
        return Rejected(Reason.BAD_RECORD, f"{type(row).__name__} where an object belongs")
    try:
        name = names.find(row.get("image_id"))
    except Rejected as error:
        return error
    return {ID: row.get("id"), IMAGE: name, CAPTION: row.get("caption")}


def _sentences(where: str, number: int, image: Mapping[str, Any]) -> Iterator[Entry]:
    """Yield the captions of one picture of Karpathy's; a picture without any is one reject."""
    sentences, filename = image.get("sentences"), image.get("filename")
    if not isinstance(sentences, list) or not sentences:
        why = f"sentences is {shown(sentences)}, no list of captions"
        yield _rejected(where, Reason.BAD_RECORD, f"{where}: {why}")
        return
    if not isinstance(filename, str):
        yield _rejected(where, Reason.BAD_RECORD, f"{where}: filename is {shown(filename)}")
        return

    # COCO's pictures lie in a folder per split, Flickr30k's in one.
    folder = image.get("filepath")
    reference = f"{folder}/{filename}" if isinstance(folder, str) else filename
    key = id_text(image.get("cocoid", image.get("imgid", number)))
    for index, sentence in enumerate(sentences):
        caption = sentence.get("raw") if isinstance(sentence, dict) else None
        caption_id = None if key is None else f"{key}#{index}"
        yield Entry(where, {ID: caption_id, IMAGE: reference, CAPTION: caption})


def _batch_entries(
    name: str, start: int, batch: pa.RecordBatch, columns: Mapping[str, str]
) -> Iterator[Entry]:
    """Yield the rows of a batch one by one: a dictionary may hold one value for all of them."""
    check_batch(batch)
    arrays = {field: batch[column] for field, column in columns.items()}

    for number in range(len(batch)):
        place = f"{name}:{start + number}"
        try:
            value: Any = {field: scalar_value(array[number]) for field, array in arrays.items()}
        except VALUE_ERRORS as error:
            yield _rejected(place, Reason.BAD_RECORD, f"{place}: {message(error)}")
            continue

        if isinstance(value[IMAGE], dict):  # Hugging Face's pictures: {"bytes", "path"}
            value[IMAGE] = value[IMAGE].get("bytes") or value[IMAGE].get("path")
        yield Entry(place, value)


def _check_end(file: IO[bytes]) -> None:
    """Raise DamagedFileError where a stream ends without saying so: pyarrow does not mind."""
    at = file.tell()
    file.seek(max(at - len(END_OF_STREAM), 0))
    if file.read(len(END_OF_STREAM)) != END_OF_STREAM:
        raise DamagedFileError("the file has no end mark: it was cut")
