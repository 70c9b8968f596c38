"""Raw rows of every kind of source, and how each becomes a candidate."""

import re
from typing import Any

from components import schema
from components.curation.candidates import (
    REPAIRS,
    Candidate,
    CandidateParams,
    RawRow,
    add_picture,
    hash_text,
)
from components.curation.captions import CAPTION, ID, IMAGE
from components.curation.quality import check_quality
from components.curation.reasons import Reason, Rejected, Repair
from components.curation.records import Entry, id_text, parse_json, shown
from components.curation.references import read_picture_file
from components.curation.text_filters import (
    caption_of,
    check_caption,
    check_conversation,
    check_phrases,
)
from components.files.storage import PICTURE_EXTENSIONS, is_unicode, printable
from components.files.tars import ShardSample

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
EMPTY: tuple[object, ...] = (None, "", [], {}, False)  # values that say nothing


def instruct_row(source: str, root: str, entry: Entry, params: CandidateParams) -> RawRow:
    """Return a row of LLaVA-format instruction data; pictures are looked up below `root`."""

    def fill(row: Candidate) -> None:
        record = _check_record(entry)

        # Texts are checked first: that is cheap, decoding is not.
        reference = _single_reference(record)
        turns, is_repaired = check_conversation(
            record.get("conversations"), reference is not None, params.text
        )
        row[schema.CONVERSATION] = turns
        if reference is None and record.get("phrases"):
            what = "phrases are true of a picture, and the record names none under 'image'"
            raise Rejected(Reason.BAD_RECORD, what)
        if reference is not None:
            row[schema.CAPTION] = caption_of(turns, params.caption_prompts, params.text)
            row[schema.PHRASES], is_mended = check_phrases(record.get("phrases"), params.text)
            is_repaired |= is_mended
            _add_file(row, root, reference, params)

        hash_text(row, is_repaired)
        _note_id(row, record.get(ID))

    return RawRow(f"{source}/{_record_id(entry)}", source, fill)


def pair_row(source: str, root: str | None, entry: Entry, params: CandidateParams) -> RawRow:
    """Return a caption pair of a table or an annotation file.

    Without a `root` the row itself holds the picture.
    """

    def fill(row: Candidate) -> None:
        record = _check_record(entry)
        row[schema.CAPTION], is_repaired = check_caption(record[CAPTION], params.text)
        check_quality(row[schema.CAPTION], params.captions)

        # A picture is the bytes in the row, or a name below the root.
        image = record[IMAGE]
        if image is None or image in ("", b""):
            raise Rejected(Reason.IMAGE_MISSING, f"{entry.place}: no picture")

        if root is None:
            add_picture(row, _check_bytes(image, entry.place, params), "", params)
        elif isinstance(image, str):
            _add_file(row, root, image, params)
        else:
            what = f"{entry.place}: image is a {type(image).__name__}"
            raise Rejected(Reason.BAD_RECORD, what)

        hash_text(row, is_repaired)
        _note_id(row, record.get(ID, entry.place))  # a table may have no column of ids

    return RawRow(f"{source}/{_record_id(entry)}", source, fill)


def caption_row(source: str, sample: ShardSample, params: CandidateParams) -> RawRow:
    """Return a caption pair of a webdataset shard."""

    def fill(row: Candidate) -> None:
        if sample.problem is not None:
            raise Rejected(Reason(sample.problem.reason), sample.problem.detail)
        # a broken one means a damaged sample
        metadata = parse_json(sample.members["json"]) if "json" in sample.members else {}

        if "txt" not in sample.members:
            raise Rejected(Reason.MISSING_CAPTION, f"{sample.key} has no .txt member")
        caption = _decode(sample.members["txt"])
        row[schema.CAPTION], is_repaired = check_caption(caption, params.text)
        check_quality(row[schema.CAPTION], params.captions)
        further = metadata.get("phrases") if isinstance(metadata, dict) else None
        row[schema.PHRASES], is_mended = check_phrases(further, params.text)
        is_repaired |= is_mended

        extensions = [name for name in PICTURE_EXTENSIONS if name in sample.members]
        if not extensions:
            raise Rejected(Reason.IMAGE_MISSING, f"{sample.key} has no picture member")
        if len(extensions) > 1:
            what = f"{', '.join(extensions)} in the sample {sample.key}"
            raise Rejected(Reason.MULTIPLE_IMAGES, what)

        extension = extensions[0]
        add_picture(row, sample.members[extension], f"{sample.key}.{extension}", params)
        hash_text(row, is_repaired)

    return RawRow(f"{source}/{sample.key}", source, fill)


def picture_row(source: str, root: str, reference: str, params: CandidateParams) -> RawRow:
    """Return a picture of an evaluation corpus; its name below `root` is its id."""

    def fill(row: Candidate) -> None:
        _add_file(row, root, reference, params)
        hash_text(row, False)

    return RawRow(printable(reference), source, fill)


def _record_id(entry: Entry) -> str:
    """Return the record's own id, else its place in the file."""
    value = entry.value.get(ID) if isinstance(entry.value, dict) else None
    return printable(id_text(value) or entry.place)


def _check_record(entry: Entry) -> dict[str, Any]:
    """Return the record, if it is one and its id can be kept as it is written. Raises Rejected."""
    record = entry.value
    if isinstance(record, Rejected):
        raise record
    if not isinstance(record, dict):
        what = f"{entry.place}: {type(record).__name__} where an object belongs"
        raise Rejected(Reason.BAD_RECORD, what)

    # The id, or the place that stands for it, becomes part of a file.
    value = record.get(ID)
    if value not in (None, "") and id_text(value) is None:
        what = f"{entry.place}: the id is {shown(value)}; write it as text"
        raise Rejected(Reason.BAD_RECORD, what)
    if isinstance(value, str) and not is_unicode(value):
        raise Rejected(Reason.BAD_ENCODING, f"{entry.place}: the id {value!r} is not Unicode text")
    if not is_unicode(entry.place):
        what = f"{entry.place!r}: the name of the file is not Unicode text"
        raise Rejected(Reason.BAD_ENCODING, what)
    return record


def _single_reference(record: dict[str, Any]) -> str | None:
    """Return the name of the picture of a record; None if it has none. Raises Rejected.

    `image` may be absent, empty, a name, or a list of one name; no other medium may be there.
    """
    image = record.get("image")
    names = image if isinstance(image, list) else [image]
    if len(names) > 1:
        raise Rejected(Reason.MULTIPLE_IMAGES, f"{len(names)} pictures")

    # Questions about a video, or about a picture under another key, are none about text alone.
    filled = [key for key, value in record.items() if value not in EMPTY]
    if other := [key for key in OTHER_MODALITIES if key in filled]:
        what = f"the record has {other[0]!r}; only pictures can be read"
        raise Rejected(Reason.OTHER_MODALITY, what)

    if not names or names[0] is None or names[0] == "":
        if other := [key for key in filled if OTHER_PICTURES.fullmatch(key)]:
            what = f"the picture is named by {other[0]!r}; the key is 'image'"
            raise Rejected(Reason.BAD_RECORD, what)
        return None
    if not isinstance(names[0], str):
        raise Rejected(Reason.BAD_RECORD, f"image is a {type(names[0]).__name__}")
    return names[0]


def _check_bytes(image: object, place: str, params: CandidateParams) -> bytes:
    """Return the bytes of a picture that lies in a row. Raises Rejected."""
    if not isinstance(image, bytes):
        what = f"{place}: the picture is a {type(image).__name__}, not bytes"
        raise Rejected(Reason.BAD_RECORD, what)
    if len(image) > params.max_file_bytes:
        raise Rejected(Reason.FILE_TOO_LARGE, f"{place}: {len(image)} bytes")
    return image


def _add_file(row: Candidate, root: str, reference: str, params: CandidateParams) -> None:
    """Read and decode the picture that a row refers to. Raises Rejected."""
    if not is_unicode(reference):
        what = f"the name of the picture, {reference!r}, is not Unicode text"
        raise Rejected(Reason.BAD_ENCODING, what)
    found = read_picture_file(root, reference, params.max_file_bytes, params.allowed_roots)
    add_picture(row, found.data, found.reference, params)
    if found.reference != reference:
        row[REPAIRS].append(Repair.OTHER_EXTENSION.value)


def _note_id(row: Candidate, value: object) -> None:
    """Note that the place of a record stands for its id, if `value` is none."""
    if id_text(value) is None:
        row[REPAIRS].append(Repair.ID_FROM_PLACE.value)


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Rejected(Reason.BAD_ENCODING, f"caption is not UTF-8: {error}") from None
