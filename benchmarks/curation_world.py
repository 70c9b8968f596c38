"""World of any number of caption pairs in tars, with known faults, and two evaluation sets."""

import io
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from components.drawn_world import file_formats as formats

ROWS_PER_TAR = 5000
NUM_EVALUATION = 200  # pictures per split
SPLITS = ("validation", "test")
MAX_ROWS_PER_CAPTION = 1000
COPY_QUALITY = 90  # of the JPEG of a near duplicate; the others have 95
SIDE = 48  # pixels
PATCHES = 16  # per side
# What is wrong with a row: every so many rows, beginning with which.
FAULTS = {
    "duplicate_picture": (100, 1),
    "near_duplicate_picture": (100, 3),
    "repeated_caption": (100, 5),
    "truncated": (200, 7),
    "leaked_from_evaluation": (1000, 9),
    "nearly_leaked_from_evaluation": (1000, 11),
}


def picture(number: int, quality: int = 95) -> bytes:
    """Draw smooth patches of colour, unlike those of any other number, as a JPEG."""
    patches = np.random.default_rng(number).integers(0, 256, (PATCHES, PATCHES, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(patches).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def fault_of(row: int) -> str | None:
    return next((fault for fault, (every, first) in FAULTS.items() if row % every == first), None)


def caption_pair(row: int) -> tuple[str, bytes, str]:
    """Return key, picture and caption."""
    fault = fault_of(row)
    leaked = -1 - (row // 1000) % NUM_EVALUATION  # pictures of the test set have negative numbers
    match fault:
        case "duplicate_picture":
            data = picture(row - 1)
        case "near_duplicate_picture":
            data = picture(row - 1, quality=COPY_QUALITY)
        case "leaked_from_evaluation":
            data = evaluation_picture(leaked)
        case "nearly_leaked_from_evaluation":
            data = evaluation_picture(leaked, quality=COPY_QUALITY)
        case _:
            data = picture(row)
    caption = (
        "picture not available"
        if fault == "repeated_caption"
        else f"smooth tiles in colours number {row}"
    )
    return f"{row:09d}", data[:400] if fault == "truncated" else data, caption


def evaluation_picture(number: int, quality: int = 95) -> bytes:
    """Draw the picture of a number below zero."""
    return picture(2**40 + number, quality)


def write_world(raw: Path, num_rows: int) -> None:
    """Write tars and evaluation sets below `raw`."""
    (raw / "captions").mkdir(parents=True)
    for start in range(0, num_rows, ROWS_PER_TAR):
        rows = range(start, min(start + ROWS_PER_TAR, num_rows))
        members = chain.from_iterable(formats.caption_members(*caption_pair(row)) for row in rows)
        formats.write_tar(raw / "captions" / f"{start // ROWS_PER_TAR:06d}.tar", members)
    for index, split in enumerate(reversed(SPLITS)):
        write_evaluation(raw / "evaluation" / split, -1 - index * NUM_EVALUATION)


def write_evaluation(folder: Path, first: int) -> None:
    """Write pictures numbered downwards from `first`, with questions and captions."""
    (folder / "pictures").mkdir(parents=True)
    names = [f"{index}.jpg" for index in range(NUM_EVALUATION)]
    for index, name in enumerate(names):
        (folder / "pictures" / name).write_bytes(evaluation_picture(first - index))
    same = {
        "benchmark": "short_answer",
        "kind": "colour",
        "question": "which colour?",
        "choices": None,
        "group": None,
    }
    questions = [
        {"question_id": index, "image": name, "answers": [str(index % 10)], **same}
        for index, name in enumerate(names)
    ]
    formats.write_json_lines(folder / "questions.jsonl", questions)
    formats.write_json(
        folder / "captions.json", formats.coco_captions({name: ["tiles"] for name in names})
    )
    pair = {"filename": names[0], "caption": "red tiles", "negative_caption": "blue tiles"}
    formats.write_json(folder / "compositionality.json", {"replace_attribute": {"0": pair}})


def expected_rejects(num_rows: int) -> Counter[str]:
    """Return the expected rejects by reason."""
    counts: Counter[str] = Counter()
    for fault, (every, first) in FAULTS.items():
        counts[fault] = len(range(first, num_rows, every))
    counts["repeated_caption"] = max(counts["repeated_caption"] - MAX_ROWS_PER_CAPTION, 0)
    return +counts
