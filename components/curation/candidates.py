"""Candidates: rows of the staging files, decoded, checked, hashed, and accepted or rejected.

They hold all that can be said about a row without looking at any other row. What depends on other
rows (duplicates, leaks, splits) is decided later from their small columns.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
from pydantic import Field

from components import schema
from components.curation.deduplication import NearDuplicateParams, perceptual_hash
from components.curation.quality import CaptionQuality
from components.curation.reasons import Rejected, Repair, rejected_picture
from components.curation.text_filters import TextLimits
from components.files.storage import printable
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
    "tiff": "TIFF",
}

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
    """A row as it was read, neither checked nor decoded."""

    sample_id: str
    source: str
    fill: Callable[[Candidate], None]  # checks and decodes; raises Rejected


class CandidateParams(Params):
    """Rules for one row."""

    pictures: PictureLimits
    max_file_bytes: Annotated[int, Field(ge=1)]  # of one picture file or archive member
    text: TextLimits
    captions: CaptionQuality  # of caption pairs
    caption_prompts: tuple[str, ...]  # the answer to one of these is a caption too
    near_duplicates: NearDuplicateParams
    # folders that links to pictures may lead into
    allowed_roots: tuple[Annotated[str, Field(min_length=1)], ...]


def check_row(row: RawRow) -> Candidate:
    """Return the candidate of a row, accepted or rejected."""
    candidate = _empty(row)
    try:
        row.fill(candidate)
    except Rejected as error:
        return refuse_row(row, error)
    return candidate


def refuse_row(row: RawRow, error: Rejected) -> Candidate:
    """Return the candidate of a row that cannot be used."""
    # A detail may quote the input: characters that no file can hold are escaped.
    return _empty(row) | {schema.REASON: error.reason.value, schema.DETAIL: printable(error.detail)}


def add_picture(row: Candidate, data: bytes, name: str, params: CandidateParams) -> None:
    """Decode the picture of a row; `name` promises a format by its extension. Raises Rejected."""
    try:
        picture = decode_with_repairs(data, params.pictures)
    except PictureError as error:
        raise rejected_picture(error) from None

    row[schema.IMAGE] = encode_png(picture.image)
    row[schema.IMAGE_SHA256] = pixel_sha256(picture.image)
    row[schema.WIDTH], row[schema.HEIGHT] = picture.image.size
    row[NEAR_HASH] = perceptual_hash(picture.image, params.near_duplicates)

    # A name with another format is no reason to lose a picture.
    row[REPAIRS] += [Repair(repair).value for repair in picture.repairs]
    promised = FORMATS.get(PurePosixPath(name).suffix[1:].lower())
    if promised is not None and promised != picture.format:
        row[REPAIRS].append(Repair.WRONG_EXTENSION.value)


def hash_text(row: Candidate, is_repaired: bool) -> None:
    """Note the hash of the text of a row, which is complete, and whether it was repaired."""
    if is_repaired:
        row[REPAIRS].append(Repair.CONTROL_CHARACTERS.value)
    text = json.dumps([row[schema.CONVERSATION], row[schema.CAPTION], row[schema.PHRASES]])
    row[CONTENT_SHA256] = hashlib.sha256(text.encode()).hexdigest()


def _empty(row: RawRow) -> Candidate:
    empty: Candidate = dict.fromkeys(CANDIDATES.names)
    return empty | {
        schema.SAMPLE_ID: row.sample_id,
        schema.SOURCE: row.source,
        schema.CONVERSATION: [],
        schema.PHRASES: [],
        REPAIRS: [],
    }
