"""One raw row in, one candidate out: decoded, checked, hashed, and either accepted or rejected with a reason.

Candidates are rows of the staging files that tasks write: all that can be said about a row without
looking at any other row. What depends on other rows (duplicates, leaks, splits) is decided later
from their small columns.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
from pydantic import Field

from components import schema
from components.curation.captions import CAPTION, ID, IMAGE
from components.curation.deduplication import NearDuplicateParams, perceptual_hash
from components.curation.quality import CaptionQuality, check_quality
from components.curation.reasons import Reason, Rejected, Repair, rejected_picture
from components.curation.records import Entry, id_text, parse_json, shown
from components.curation.references import FoundPicture, read_picture_file
from components.curation.text_filters import (
    TextLimits,
    caption_of,
    check_caption,
    check_conversation,
)
from components.files.storage import PICTURE_EXTENSIONS, is_unicode, printable
from components.files.tars import ShardSample
from components.params import Params
from components.pictures import (
    PictureError,
    PictureLimits,
    decode_with_repairs,
    encode_png,
    pixel_sha256,
)

REPAIRS, NEAR_HASH, CONTENT_SHA256 = "repairs", "near_hash", "content_sha256"
# The format that a file name promises, by Pillow's name.
FORMATS = {
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "gif": "GIF",
    "bmp": "BMP",
    "tif": "TIFF",
}
FORMATS["tiff"] = FORMATS["tif"]
# Keys of records for what is no picture, and for pictures as other programs call them: a record
# with one of them must not become text without it.
OTHER_MODALITIES = (
    "video",
    "videos",
    "audio",
    "audios",
    "speech",
    "sound",
    "point",
    "point_cloud",
    "pcd",
)
OTHER_PICTURES = re.compile(
    r"images?|img|imgs|pictures?|photos?|(image|img|picture)_?(path|file|name|url)s?", re.IGNORECASE
)

CANDIDATES = pa.schema(
    [
        *(field for field in schema.SAMPLES if field.name != schema.SPLIT),
        pa.field(schema.REASON, pa.string()),  # null: accepted
        pa.field(schema.DETAIL, pa.string()),
        pa.field(REPAIRS, pa.list_(pa.string())),
        pa.field(NEAR_HASH, pa.string()),  # hexadecimal; null for flat pictures
        pa.field(CONTENT_SHA256, pa.string()),  # of the text
    ]
)
Candidate = dict[str, Any]


class RawRow(NamedTuple):
    """A row as it was read; nothing of it was checked or decoded."""

    sample_id: str
    source: str
    fill: Callable[[Candidate], None]  # checks and decodes; raises Rejected


class CandidateParams(Params):
    """How one row is checked."""

    pictures: PictureLimits
    max_file_bytes: Annotated[int, Field(ge=1)]  # of one picture file or archive member
    text: TextLimits
    captions: CaptionQuality  # of caption pairs
    caption_prompts: tuple[str, ...]  # the answer to one of these is a caption too
    near_duplicates: NearDuplicateParams
    # folders that links to pictures may lead into
    allowed_roots: tuple[Annotated[str, Field(min_length=1)], ...]


def check_row(row: RawRow) -> Candidate:
    """A candidate, accepted or rejected."""
    candidate = _empty(row)
    try:
        row.fill(candidate)
    except Rejected as error:
        return refuse_row(row, error)
    return candidate


def refuse_row(row: RawRow, error: Rejected) -> Candidate:
    """The candidate of a row that cannot be used."""
    # A detail may quote the input: characters that no file can hold are escaped.
    return _empty(row) | {schema.REASON: error.reason.value, schema.DETAIL: printable(error.detail)}


def instruct_row(source: str, root: str, entry: Entry, params: CandidateParams) -> RawRow:
    """A row of LLaVA-format instruction data; pictures are looked up below `root`."""

    def fill(row: Candidate) -> None:
        record = _check_record(entry)
        reference = _single_reference(record)
        turns, repaired = check_conversation(
            record.get("conversations"), reference is not None, params.text
        )
        row[schema.CONVERSATION] = turns
        if reference is not None:
            row[schema.CAPTION] = caption_of(turns, params.caption_prompts, params.text)
            _check_reference(reference)
            _add_file(row, _read(root, reference, params), reference, params)
        _note_text(row, repaired)
        _note_id(row, record.get(ID))

    return RawRow(f"{source}/{_record_id(entry)}", source, fill)


def pair_row(source: str, root: str | None, entry: Entry, params: CandidateParams) -> RawRow:
    """A caption pair of a table or an annotation file; without a `root` the row itself holds the picture."""

    def fill(row: Candidate) -> None:
        record = _check_record(entry)
        row[schema.CAPTION], repaired = check_caption(record[CAPTION], params.text)
        check_quality(row[schema.CAPTION], params.captions)
        image = record[IMAGE]
        if image is None or image in ("", b""):
            raise Rejected(Reason.IMAGE_MISSING, f"{entry.place}: no picture")
        if root is None:
            if not isinstance(image, bytes):
                raise Rejected(
                    Reason.BAD_RECORD,
                    f"{entry.place}: the picture is a {type(image).__name__}, not bytes",
                )
            if len(image) > params.max_file_bytes:
                raise Rejected(Reason.FILE_TOO_LARGE, f"{entry.place}: {len(image)} bytes")
            _add_picture(row, image, "", params)
        else:
            if not isinstance(image, str):
                raise Rejected(
                    Reason.BAD_RECORD, f"{entry.place}: image is a {type(image).__name__}"
                )
            _check_reference(image)
            _add_file(row, _read(root, image, params), image, params)
        _note_text(row, repaired)
        _note_id(row, record.get(ID, entry.place))  # a table may have no column of ids

    return RawRow(f"{source}/{_record_id(entry)}", source, fill)


def caption_row(source: str, sample: ShardSample, params: CandidateParams) -> RawRow:
    """A caption pair of a webdataset shard."""

    def fill(row: Candidate) -> None:
        if sample.problem is not None:
            raise Rejected(Reason(sample.problem.reason), sample.problem.detail)
        if "json" in sample.members:
            # read by nobody here, but a broken one means a damaged sample
            parse_json(sample.members["json"])
        if "txt" not in sample.members:
            raise Rejected(Reason.MISSING_CAPTION, f"{sample.key} has no .txt member")
        row[schema.CAPTION], repaired = check_caption(_decode(sample.members["txt"]), params.text)
        check_quality(row[schema.CAPTION], params.captions)
        extensions = [name for name in PICTURE_EXTENSIONS if name in sample.members]
        if not extensions:
            raise Rejected(Reason.IMAGE_MISSING, f"{sample.key} has no picture member")
        if len(extensions) > 1:
            raise Rejected(
                Reason.MULTIPLE_IMAGES, f"{', '.join(extensions)} in the sample {sample.key}"
            )
        _add_picture(row, sample.members[extensions[0]], f"{sample.key}.{extensions[0]}", params)
        _note_text(row, repaired)

    return RawRow(f"{source}/{sample.key}", source, fill)


def picture_row(source: str, root: str, reference: str, params: CandidateParams) -> RawRow:
    """A picture of an evaluation corpus; its name below `root` is its id."""

    def fill(row: Candidate) -> None:
        _check_reference(reference)
        _add_file(row, _read(root, reference, params), reference, params)
        _note_text(row, False)

    return RawRow(printable(reference), source, fill)


def _empty(row: RawRow) -> Candidate:
    empty: Candidate = dict.fromkeys(CANDIDATES.names)
    return empty | {
        schema.SAMPLE_ID: row.sample_id,
        schema.SOURCE: row.source,
        schema.CONVERSATION: [],
        REPAIRS: [],
    }


def _record_id(entry: Entry) -> str:
    """The record's own id, else its place in the file."""
    value = entry.value.get(ID) if isinstance(entry.value, dict) else None
    return printable(id_text(value) or entry.place)


def _check_record(entry: Entry) -> dict[str, Any]:
    """The record, if it is one and its id is none or one that can be kept as it is written. Raises Rejected."""
    record = entry.value
    if isinstance(record, Rejected):
        raise record
    if not isinstance(record, dict):
        raise Rejected(
            Reason.BAD_RECORD, f"{entry.place}: {type(record).__name__} where an object belongs"
        )
    value = record.get(ID)
    if value not in (None, "") and id_text(value) is None:
        raise Rejected(
            Reason.BAD_RECORD, f"{entry.place}: the id is {shown(value)}; write it as text"
        )
    if isinstance(value, str) and not is_unicode(value):
        raise Rejected(Reason.BAD_ENCODING, f"{entry.place}: the id {value!r} is not Unicode text")
    if not is_unicode(entry.place):
        raise Rejected(
            Reason.BAD_ENCODING, f"{entry.place!r}: the name of the file is not Unicode text"
        )
    return record


def _single_reference(record: dict[str, Any]) -> str | None:
    """`image` may be absent, empty, a name, or a list of one name; no other medium may be there. Raises Rejected."""
    image = record.get("image")
    names = image if isinstance(image, list) else [image]
    if len(names) > 1:
        raise Rejected(Reason.MULTIPLE_IMAGES, f"{len(names)} pictures")
    if other := [key for key in OTHER_MODALITIES if _says_something(record.get(key))]:
        raise Rejected(
            Reason.OTHER_MODALITY, f"the record has {other[0]!r}; only pictures can be read"
        )
    if not names or names[0] is None or names[0] == "":
        if other := [
            key for key in record if OTHER_PICTURES.fullmatch(key) and _says_something(record[key])
        ]:
            raise Rejected(
                Reason.BAD_RECORD, f"the picture is named by {other[0]!r}; the key is 'image'"
            )
        return None
    if not isinstance(names[0], str):
        raise Rejected(Reason.BAD_RECORD, f"image is a {type(names[0]).__name__}")
    return names[0]


def _read(root: str, reference: str, params: CandidateParams) -> FoundPicture:
    return read_picture_file(root, reference, params.max_file_bytes, params.allowed_roots)


def _says_something(value: object) -> bool:
    return value is not None and value not in ("", [], {}, False)


def _check_reference(reference: str) -> None:
    if not is_unicode(reference):
        raise Rejected(
            Reason.BAD_ENCODING, f"the name of the picture, {reference!r}, is not Unicode text"
        )


def _note_id(row: Candidate, value: object) -> None:
    """`value`: the id of the record, where its place stands for an id that is missing."""
    if id_text(value) is None:
        row[REPAIRS].append(Repair.ID_FROM_PLACE.value)


def _add_file(row: Candidate, found: FoundPicture, reference: str, params: CandidateParams) -> None:
    _add_picture(row, found.data, found.reference, params)
    if found.reference != reference:
        row[REPAIRS].append(Repair.OTHER_EXTENSION.value)


def _add_picture(row: Candidate, data: bytes, name: str, params: CandidateParams) -> None:
    try:
        picture = decode_with_repairs(data, params.pictures)
    except PictureError as error:
        raise rejected_picture(error) from None
    row[schema.IMAGE] = encode_png(picture.image)
    row[schema.IMAGE_SHA256] = pixel_sha256(picture.image)
    row[schema.WIDTH], row[schema.HEIGHT] = picture.image.size
    row[NEAR_HASH] = perceptual_hash(picture.image, params.near_duplicates)
    row[REPAIRS] += [Repair(name).value for name in picture.repairs]
    promised = FORMATS.get(PurePosixPath(name).suffix[1:].lower())
    if promised is not None and promised != picture.format:
        row[REPAIRS].append(Repair.WRONG_EXTENSION.value)


def _note_text(row: Candidate, repaired: bool) -> None:
    if repaired:
        row[REPAIRS].append(Repair.CONTROL_CHARACTERS.value)
    text = json.dumps([row[schema.CONVERSATION], row[schema.CAPTION]])
    row[CONTENT_SHA256] = hashlib.sha256(text.encode()).hexdigest()


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Rejected(Reason.BAD_ENCODING, f"caption is not UTF-8: {error}") from None
