"""The demo world's deliberately broken inputs: faults of real downloads, planted and listed.

Every faulty row is listed with what curation must make of it: the reason of its rejection, or
`repaired`. The bytes depend on the healthy rows and the seed alone.
"""

import copy
import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

REPAIRED = "repaired"
HUGE_SIDE = 20_000  # pixels that a small file claims to have, per side
EXIF_ORIENTATION = 0x0112
Row = dict[str, Any]
Pair = tuple[str, bytes, str]  # key, JPEG bytes, caption


@dataclass(frozen=True)
class Fault:
    """One planted fault. `expected` is a reason of components/curation/reasons.py or `repaired`."""

    id: str
    source: str
    fault: str
    expected: str


# name, change of the file, ending of its name, and what curation makes of it
PictureFault = tuple[str, Callable[[bytes], bytes], str, str]


def broken_instruct_rows(
    pictures_dir: Path, healthy_rows: list[Row], seed: int
) -> tuple[list[Row], list[Fault]]:
    """Make faulty rows to append to the instruction data, and their files in `pictures_dir`.

    Each is a healthy row about a picture with one thing wrong. `pictures_dir` is named `pictures`
    in the rows.
    """
    rng = np.random.default_rng((seed, 100))
    donors = [row for row in healthy_rows if "image" in row]
    rows, faults = [], []

    # Damaged picture files.
    for fault, damage, ending, expected in PICTURE_FAULTS:
        donor = donors[int(rng.integers(0, len(donors)))]
        name = f"broken-{fault}.{ending}"
        healthy = (pictures_dir.parent / donor["image"]).read_bytes()
        (pictures_dir / name).write_bytes(damage(healthy))
        # Another wording: a repaired copy of a picture with the same text would be a duplicate.
        rows.append(_reworded(donor, f"broken-{fault}", image=f"{pictures_dir.name}/{name}"))
        faults.append(Fault(f"broken-{fault}", "instruct", fault, expected))

    # Rows that do not fit the format.
    for fault, change, expected in ROW_FAULTS:
        donor = copy.deepcopy(donors[int(rng.integers(0, len(donors)))])
        row = change(_reworded(donor, f"broken-{fault}", image=donor["image"]))
        rows.append(row)
        faults.append(Fault(row["id"], "instruct", fault, expected))

    # Rows that come twice.
    for fault, expected, row in _repetitions(donors[int(rng.integers(0, len(donors)))]):
        rows.append(row)
        faults.append(Fault(row["id"], "instruct", fault, expected))
    return rows, faults


def broken_caption_members(
    healthy: Sequence[Pair], seed: int
) -> tuple[list[tuple[str, bytes]], list[Fault]]:
    """Make members (name, bytes) to append to the last tar of caption pairs.

    Each fault uses another healthy pair, turned upside down so that it is a new picture.
    """
    rng = np.random.default_rng((seed, 101))
    first = int(rng.integers(0, len(healthy)))

    members, faults = [], []
    for index, (fault, build, expected) in enumerate(CAPTION_FAULTS):
        _, picture, caption = healthy[(first + index) % len(healthy)]
        key = f"broken-{fault}" if fault != "key_escapes_root" else f"../broken-{fault}"
        for extension, data in build(picture, caption):
            members.append((f"{key}.{extension}", data))
        faults.append(Fault(key, "captions", fault, expected))

    # A key that comes back after others.
    members += [member for member in members if member[0].startswith("broken-json_member.")]
    faults.append(Fault("broken-json_member", "captions", "key_comes_back", "non_contiguous_key"))
    return members, faults


def _reworded(donor: Row, row_id: str, image: str) -> Row:
    """Copy the row under another id, about another file, with a first question of its own."""
    row = copy.deepcopy(donor) | {"id": row_id, "image": image}
    question = row["conversations"][0]
    question["value"] = question["value"].replace("<image>", f"<image>\nthis is {row_id}.")
    return row


def _repetitions(donor: Row) -> list[tuple[str, str, Row]]:
    """Repeat the row, the row under another id, and the id for another row."""
    same_row = copy.deepcopy(donor) | {"id": "broken-duplicate_sample"}
    same_id = _reworded(donor, "broken-id_used_twice", donor["image"]) | {"id": donor["id"]}
    return [
        ("duplicate_id", "duplicate_id", copy.deepcopy(donor)),
        ("duplicate_sample", "duplicate_sample", same_row),
        ("id_used_twice", REPAIRED, same_id),
    ]


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def _sixteen_bit(data: bytes) -> bytes:
    grey = np.asarray(_open(data).convert("L")).astype(np.uint16) * 257
    return _saved(Image.fromarray(grey), "PNG")


def _animated(data: bytes) -> bytes:
    first = _open(data)
    second = first.transpose(Image.Transpose.ROTATE_180)
    return _saved(first, "GIF", save_all=True, append_images=[second], duration=100)


def _sideways(data: bytes) -> bytes:
    """Store a quarter turn to the right, with the EXIF note to turn it back."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 8
    return _saved(_open(data).transpose(Image.Transpose.ROTATE_270), "JPEG", quality=90, exif=exif)


def _half_transparent(data: bytes) -> bytes:
    image = _open(data).convert("RGBA")
    image.putalpha(200)
    return _saved(image, "PNG")


def _huge(_: bytes) -> bytes:
    """Make a PNG of a few bytes whose header declares 400 million pixels."""
    header = struct.pack(">IIBBBBB", HUGE_SIDE, HUGE_SIDE, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        png += _png_chunk(kind, body)
    return png


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _with_turns(change: Callable[[list[dict[str, str]]], object]) -> Callable[[Row], Row]:
    """Turn a change of a conversation, in place, into a change of its row."""

    def apply(row: Row) -> Row:
        change(row["conversations"])
        return row

    return apply


def _with_image(image: object) -> Callable[[Row], Row]:
    return lambda row: row | {"image": image}


def _upside_down(picture: bytes) -> bytes:
    return _saved(_open(picture).transpose(Image.Transpose.ROTATE_180), "JPEG", quality=90)


def _nearly_same(picture: bytes) -> bytes:
    """Save without loss, but for one corner pixel that is one level brighter or darker."""
    image = _open(picture)
    red, green, blue = image.getpixel((0, 0))  # type: ignore[misc]
    image.putpixel((0, 0), (red ^ 1, green, blue))
    return _saved(image, "PNG")


PICTURE_FAULTS: tuple[PictureFault, ...] = (
    ("truncated_jpeg", lambda data: data[: len(data) // 2], "jpg", "truncated"),
    ("empty_file", lambda data: b"", "jpg", "empty_file"),
    ("text_as_jpg", lambda data: b"<html><body>404 Not Found</body></html>", "jpg", "not_an_image"),
    ("declares_20000_by_20000", _huge, "png", "too_many_pixels"),
    (
        "65500_by_1",
        lambda data: _saved(Image.new("RGB", (65_500, 1)), "PNG"),
        "png",
        "aspect_ratio",
    ),
    ("png_as_jpg", lambda data: _saved(_open(data), "PNG"), "jpg", REPAIRED),
    (
        "cmyk_jpeg",
        lambda data: _saved(_open(data).convert("CMYK"), "JPEG", quality=90),
        "jpg",
        REPAIRED,
    ),
    ("16_bit_png", _sixteen_bit, "png", REPAIRED),
    ("animated_gif", _animated, "gif", REPAIRED),
    ("exif_rotated", _sideways, "jpg", REPAIRED),
    ("transparent_png", _half_transparent, "png", REPAIRED),
)
ROW_FAULTS: tuple[tuple[str, Callable[[Row], Row], str], ...] = (
    ("missing_file", _with_image("pictures/no-such-picture.jpg"), "image_missing"),
    ("path_escapes_root", _with_image("../../../etc/passwd"), "path_escapes_root"),
    ("absolute_path", _with_image("/etc/passwd"), "path_escapes_root"),
    ("folder_as_picture", _with_image("pictures"), "not_a_file"),
    ("two_pictures", _with_image(["pictures/a.jpg", "pictures/b.jpg"]), "multiple_images"),
    ("no_answer", _with_turns(lambda turns: turns.pop()), "bad_conversation"),
    ("assistant_begins", _with_turns(lambda turns: turns.reverse()), "bad_conversation"),
    (
        "no_placeholder",
        _with_turns(lambda t: t[0].update(value="what is this?")),
        "placeholder_mismatch",
    ),
    (
        "two_placeholders",
        _with_turns(lambda t: t[1].update(value="an <image>")),
        "placeholder_mismatch",
    ),
    ("empty_answer", _with_turns(lambda turns: turns[-1].update(value="  \n ")), "empty_text"),
    (
        "lone_surrogate",
        _with_turns(lambda turns: turns[-1].update(value="half \ud83d")),
        "bad_encoding",
    ),
    (
        "control_characters",
        _with_turns(lambda turns: turns[-1].update(value=f"{turns[-1]['value']}\x00\u202e")),
        REPAIRED,
    ),
)
Members = list[tuple[str, bytes]]
CAPTION_FAULTS: tuple[tuple[str, Callable[[bytes, str], Members], str], ...] = (
    (
        "truncated_jpeg",
        lambda picture, text: [("jpg", picture[: len(picture) // 2]), ("txt", text.encode())],
        "truncated",
    ),
    (
        "empty_caption",
        lambda picture, text: [("jpg", _upside_down(picture)), ("txt", b" \n")],
        "empty_caption",
    ),
    (
        "caption_too_long",
        lambda picture, text: [("jpg", _upside_down(picture)), ("txt", b"on " * 40_000)],
        "text_too_long",
    ),
    (
        "control_characters",
        lambda picture, text: [
            ("jpg", _upside_down(picture)),
            ("txt", "shapes\x07 upside down\u202e".encode()),
        ],
        REPAIRED,
    ),
    (
        "not_utf_8",
        lambda picture, text: [("jpg", _upside_down(picture)), ("txt", b"caf\xe9")],
        "bad_encoding",
    ),
    (
        "duplicate_picture",
        lambda picture, text: [("jpg", picture), ("txt", b"the same again")],
        "duplicate_picture",
    ),
    (
        "near_duplicate_picture",
        lambda picture, text: [("png", _nearly_same(picture)), ("txt", b"almost the same again")],
        "near_duplicate_picture",
    ),
    ("no_caption", lambda picture, text: [("jpg", _upside_down(picture))], "missing_caption"),
    ("no_picture", lambda picture, text: [("txt", text.encode())], "image_missing"),
    (
        "json_member",
        lambda picture, text: [
            ("jpg", _upside_down(picture)),
            ("txt", text.encode()),
            ("json", b'{"url": "http'),
        ],
        "bad_json",
    ),
    (
        "key_escapes_root",
        lambda picture, text: [("jpg", _upside_down(picture)), ("txt", text.encode())],
        "unsafe_key",
    ),
    (
        "member_twice",
        lambda picture, text: [("jpg", picture), ("jpg", picture), ("txt", text.encode())],
        "duplicate_member",
    ),
)
