"""Column names and Arrow types of every table that passes from one stage to another.

Identifiers are opaque strings and never become file names. Pictures are PNG bytes written by
`pictures.encode_png`.
"""

import pyarrow as pa

TRAIN, VALIDATION, TEST = "train", "validation", "test"

SAMPLE_ID = "sample_id"
SOURCE = "source"
SPLIT = "split"
IMAGE = "image"
IMAGE_SHA256 = "image_sha256"
IMAGE_ID = "image_id"
WIDTH = "width"
HEIGHT = "height"
CONVERSATION = "conversation"
ROLE = "role"
CONTENT = "content"
CAPTION = "caption"
CAPTIONS = "captions"
PHRASES = "phrases"
QUESTION_ID = "question_id"
BENCHMARK = "benchmark"
KIND = "kind"
QUESTION = "question"
ANSWERS = "answers"
CHOICES = "choices"
GROUP = "group"
SUBSET = "subset"
NEGATIVE_CAPTION = "negative_caption"
QUERY_ID = "query_id"
TEXT = "text"
IMAGE_IDS = "image_ids"
REASON = "reason"
DETAIL = "detail"
SUMMARY_TOKENS = "summary_tokens"
SCALES = "scales"

MAX_ID_BYTES = 8192  # of an identifier: two of the longest paths that Linux allows

USER, ASSISTANT = "user", "assistant"
IMAGE_PLACEHOLDER = "<image>"


def _required(name: str, kind: pa.DataType) -> pa.Field:
    """Make a column without nulls."""
    return pa.field(name, kind, nullable=False)


TURN = pa.struct([_required(ROLE, pa.string()), _required(CONTENT, pa.string())])

# data/curated/samples/{train,validation}: what the trainer reads. Text-only rows have no picture,
# pure caption rows an empty conversation; a conversation that answers a known caption prompt has
# its answer in `caption` too. `phrases`: further texts that are true of the picture, most of them
# short.
SAMPLES = pa.schema(
    [
        _required(SAMPLE_ID, pa.string()),
        _required(SOURCE, pa.string()),
        _required(SPLIT, pa.string()),
        pa.field(IMAGE, pa.binary()),
        pa.field(IMAGE_SHA256, pa.string()),
        pa.field(WIDTH, pa.int32()),
        pa.field(HEIGHT, pa.int32()),
        _required(CONVERSATION, pa.list_(TURN)),
        pa.field(CAPTION, pa.string()),
        _required(PHRASES, pa.list_(_required("element", pa.string()))),
    ]
)

# data/curated/images/{validation,test}: a corpus that `compress` reads.
IMAGES = pa.schema(
    [
        _required(IMAGE_ID, pa.string()),
        _required(SPLIT, pa.string()),
        _required(IMAGE, pa.binary()),
        _required(IMAGE_SHA256, pa.string()),
        _required(WIDTH, pa.int32()),
        _required(HEIGHT, pa.int32()),
    ]
)

# Benchmarks whose questions have a rule for scores (components/evaluation/scoring.py).
BENCHMARKS = (
    "short_answer",
    "word_reading",
    "unanswerable",
    "existence",
    "relations",
    "multiple_choice",
)
# An answer with at least this score counts as right; only questions with ten annotators have
# scores between 0 and 1.
RIGHT = 0.5

# data/curated/questions/{validation,test}.parquet. `group` joins questions scored together.
QUESTIONS = pa.schema(
    [
        _required(QUESTION_ID, pa.string()),
        _required(IMAGE_ID, pa.string()),
        _required(SPLIT, pa.string()),
        _required(BENCHMARK, pa.string()),
        _required(KIND, pa.string()),
        _required(QUESTION, pa.string()),
        _required(ANSWERS, pa.list_(pa.string())),
        pa.field(CHOICES, pa.list_(pa.string())),
        pa.field(GROUP, pa.string()),
    ]
)

# data/curated/captions/{validation,test}.parquet
IMAGE_CAPTIONS = pa.schema(
    [
        _required(IMAGE_ID, pa.string()),
        _required(SPLIT, pa.string()),
        _required(CAPTIONS, pa.list_(pa.string())),
    ]
)

# data/curated/compositionality/{validation,test}.parquet: which of the two captions fits the
# picture?
COMPOSITIONALITY = pa.schema(
    [
        _required(IMAGE_ID, pa.string()),
        _required(SPLIT, pa.string()),
        _required(SUBSET, pa.string()),
        _required(CAPTION, pa.string()),
        _required(NEGATIVE_CAPTION, pa.string()),
    ]
)

# data/curated/queries/{validation,test}.parquet: searches, and all pictures that fit each.
QUERIES = pa.schema(
    [
        _required(QUERY_ID, pa.string()),
        _required(SPLIT, pa.string()),
        _required(KIND, pa.string()),
        _required(TEXT, pa.string()),
        _required(IMAGE_IDS, pa.list_(pa.string())),
    ]
)

# data/curated/rejects.parquet: one row per input row that was not kept.
REJECTS = pa.schema(
    [
        _required(SAMPLE_ID, pa.string()),
        _required(SOURCE, pa.string()),
        _required(REASON, pa.string()),
        _required(DETAIL, pa.string()),
    ]
)


def compressed(
    num_summary_tokens: int, width: int, dtype: pa.DataType, num_scales: int
) -> pa.Schema:
    """Return the schema of data/compressed/<name>, for tokens (num_summary_tokens, width).

    Width and height of the picture are in pixels. A codec with scales has (num_summary_tokens,
    num_scales) of them. Tokens and scales are flat lists of one length, which every reader of
    Parquet knows; the shape is in the provenance of a store.
    """
    tokens = pa.list_(pa.field("element", dtype), num_summary_tokens * width)
    scales = pa.list_(pa.field("element", pa.float32()), num_summary_tokens * num_scales)
    return pa.schema(
        [
            _required(IMAGE_ID, pa.string()),
            _required(WIDTH, pa.int32()),
            _required(HEIGHT, pa.int32()),
            _required(SUMMARY_TOKENS, tokens),
            *([_required(SCALES, scales)] if num_scales else []),
        ]
    )
