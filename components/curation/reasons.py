"""The closed sets of reasons why a row is not kept, and of repairs after which it is.

Every input row ends in exactly one place: kept, perhaps with repairs, or in the reject table with
one reason.
"""

from enum import StrEnum

from components.pictures import PictureError


class Reason(StrEnum):
    """Reasons why a row was rejected; reasons of pictures are from components/pictures.py."""

    # picture bytes
    EMPTY_FILE = "empty_file"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    UNSUPPORTED_MODE = "unsupported_mode"
    TRUNCATED = "truncated"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_SCANS = "too_many_scans"
    ASPECT_RATIO = "aspect_ratio"
    TOO_LARGE = "too_large"
    TOO_SMALL = "too_small"
    DECODE_ERROR = "decode_error"
    KILLS_DECODER = "kills_decoder"  # several processes ended while they read it
    # files and references
    IMAGE_MISSING = "image_missing"
    PATH_ESCAPES_ROOT = "path_escapes_root"
    NOT_A_FILE = "not_a_file"
    UNREADABLE = "unreadable"  # nobody who runs this may read the file
    FILE_TOO_LARGE = "file_too_large"
    MULTIPLE_IMAGES = "multiple_images"
    # a video, a sound or points: what a picture's compressor cannot read
    OTHER_MODALITY = "other_modality"
    # a question or caption whose evaluation picture is not in the corpus
    PICTURE_REJECTED = "picture_rejected"
    # a row of qrels.tsv whose query is not in queries.jsonl, or was rejected
    UNKNOWN_QUERY = "unknown_query"
    NO_FITTING_PICTURE = "no_fitting_picture"  # of a query
    # records
    BAD_JSON = "bad_json"
    BAD_RECORD = "bad_record"  # a field is missing or has the wrong type
    BAD_CONVERSATION = "bad_conversation"
    PLACEHOLDER_MISMATCH = "placeholder_mismatch"
    # text
    EMPTY_TEXT = "empty_text"
    EMPTY_CAPTION = "empty_caption"
    LOW_QUALITY = "low_quality"  # of a caption, by curate.candidates.captions
    OTHER_SCRIPT = "other_script"
    TEXT_TOO_LONG = "text_too_long"
    BAD_ENCODING = "bad_encoding"
    # archives
    UNREADABLE_SHARD = "unreadable_shard"  # one row that stands for the lost rest of the shard
    EMPTY_SHARD = "empty_shard"  # one row that stands for an archive without samples
    MISSING_CAPTION = "missing_caption"
    UNSAFE_KEY = "unsafe_key"
    # of a picture of an archive: its key, up to the first dot, could be another picture's, too
    DOTTED_NAME = "dotted_name"
    DUPLICATE_MEMBER = "duplicate_member"
    NON_CONTIGUOUS_KEY = "non_contiguous_key"
    # against other rows
    DUPLICATE_ID = "duplicate_id"
    DUPLICATE_SAMPLE = "duplicate_sample"
    DUPLICATE_PICTURE = "duplicate_picture"
    # more rows of the source than max_rows_per_caption have it
    REPEATED_CAPTION = "repeated_caption"
    NEAR_DUPLICATE_PICTURE = "near_duplicate_picture"
    LEAKED_FROM_EVALUATION = "leaked_from_evaluation"
    NEARLY_LEAKED = "nearly_leaked_from_evaluation"


class Repair(StrEnum):
    """Repairs of a row that is kept; repairs of pictures are from components/pictures.py."""

    EXIF_ROTATED = "exif_rotated"
    EXIF_UNREADABLE = "exif_unreadable"
    FIRST_FRAME = "first_frame"
    SIXTEEN_BIT = "16_bit"
    CMYK = "cmyk"
    ALPHA = "alpha"
    WRONG_EXTENSION = "wrong_extension"  # the name says another format than the bytes
    # removed from the text, or made a space or a new line
    CONTROL_CHARACTERS = "control_characters"
    # the file lies under another extension than the record names
    OTHER_EXTENSION = "other_extension"
    ID_FROM_PLACE = "id_from_place"  # the record has no id; its file and position are one
    ID_MADE_UNIQUE = "id_made_unique"  # another row had the id already, with other content


class Rejected(Exception):
    """A row cannot be used. `detail` is for people."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def rejected_picture(error: PictureError) -> Rejected:
    """Return the picture's own reason as a reason of the row."""
    return Rejected(Reason(error.reason), error.detail)
