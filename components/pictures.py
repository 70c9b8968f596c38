"""Decoding of untrusted bytes to a plain RGB picture, or an error with one of a few reasons.

The rules are the same at curation, compression and serving. Size limits are read from the header,
before any pixel is decoded; what a picture takes is bounded by its bytes and its pixels, never by a
clock; only formats on the allow-list are parsed; the EXIF orientation is applied; of an animation
the first frame counts; 16-bit grey is scaled to 8 bits; transparency is composited on white; CMYK
becomes RGB; an ICC profile is ignored. Damage that the format itself does not detect (a flipped
byte inside a JPEG scan) cannot be seen here.
"""

import hashlib
import io
import re
import warnings
from typing import Annotated, Literal, NamedTuple, NoReturn, get_args

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError
from pydantic import Field, field_validator

from components.params import Params

PictureReason = Literal[
    "empty_file",
    "not_an_image",
    "unsupported_format",
    "unsupported_mode",
    "truncated",
    "too_many_pixels",
    "too_many_scans",
    "aspect_ratio",
    "too_large",
    "too_small",
    "decode_error",
]
PictureRepair = Literal["exif_rotated", "exif_unreadable", "first_frame", "16_bit", "cmyk", "alpha"]
PICTURE_REASONS: tuple[str, ...] = get_args(PictureReason)
PICTURE_REPAIRS: tuple[str, ...] = get_args(PictureRepair)

WHITE = (255, 255, 255)
PILLOW_MAX_PIXELS = 178_956_970  # Pillow itself refuses more
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
CUT_SHORT = ("truncated", "cannot load this image")  # Pillow's words for missing pixels
GREY_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
SUPPORTED_MODES = {
    *GREY_16_BIT,
    *("1", "L", "P", "RGB", "RGBX", "YCbCr", "CMYK"),
    *("LA", "PA", "RGBA", "La", "RGBa"),
}

# A progressive JPEG paints its pixels again with every scan, and a scan may have 12 bytes: 400 kB
# decode for a minute. Encoders write 10 to 14 scans. 2^31 painted pixels take some 6 s: 12 scans of
# the largest picture that Pillow opens.
MAX_SCANNED_PIXELS = 1 << 31
MAX_SCANS = 500
MAX_SEGMENTS = 4096  # in front of the scans; Pillow copies what it has with every one more
# Markers of JPEG (ITU-T T.81, table B.1), without restarts and stuffed zeros inside a scan.
MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
JPEG_START = b"\xff\xd8\xff"
SCAN, END, START = 0xDA, 0xD9, 0xD8
FIRST_WITH_LENGTH = 0xC0

# Between 90 and 179 million pixels Pillow only warns; PictureLimits decides instead. It also warns
# of damaged tags, one by one.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class PictureLimits(Params):
    """Limits of what is accepted.

    Checked in this order: format, pixels, aspect ratio, longest side, shortest side.
    """

    formats: tuple[str, ...]  # Pillow's names of formats that it opens (JPEG covers MPO)
    max_pixels: Annotated[int, Field(ge=1, le=PILLOW_MAX_PIXELS)]  # width × height
    max_aspect_ratio: Annotated[float, Field(ge=1)]  # longest side / shortest side
    max_side: Annotated[int, Field(ge=1)]  # pixels
    min_side: Annotated[int, Field(ge=1)]  # pixels

    @field_validator("formats")
    @classmethod
    def _known_to_pillow(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse a misspelt name: it would reject every picture of that format."""
        Image.init()
        if unknown := sorted(set(formats) - set(Image.OPEN)):
            raise ValueError(
                f"Pillow opens no {', '.join(unknown)}; choose from {', '.join(sorted(Image.OPEN))}"
            )
        return formats


class PictureError(ValueError):
    """Raised for bytes that are no usable picture.

    `reason` is one of PICTURE_REASONS, `detail` is for people.
    """

    def __init__(self, reason: PictureReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class DecodedPicture(NamedTuple):
    """A decoded picture and what was done to it."""

    image: Image.Image  # RGB, without metadata
    format: str  # what the bytes were, by Pillow's name; MPO counts as JPEG
    repairs: tuple[PictureRepair, ...]


def decode_picture(data: bytes, limits: PictureLimits) -> Image.Image:
    """Decode untrusted bytes to an RGB picture without metadata. Raises PictureError."""
    return decode_with_repairs(data, limits).image


def decode_with_repairs(data: bytes, limits: PictureLimits) -> DecodedPicture:
    """Decode as `decode_picture`, and say which repairs were needed. Raises PictureError."""
    # Limits by the header, before any pixel is decoded.
    if not data:
        raise PictureError("empty_file", "0 bytes")
    source = _open(data, limits)
    _check_size(*source.size, limits)
    if data.startswith(JPEG_START):
        _check_scans(data, *source.size)
    if isinstance(source, TiffImagePlugin.TiffImageFile):
        _check_tiles(source, limits)
    if source.mode not in SUPPORTED_MODES:
        raise PictureError("unsupported_mode", f"pixel mode {source.mode}")

    repairs: list[PictureRepair] = []
    try:
        source.load()
        if getattr(source, "is_animated", False):
            repairs.append("first_frame")
        image = _apply_orientation(_to_rgb(source, repairs), source, repairs)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything on hostile input
        _raise_decode_error(error)
    image.info = {}
    name = "JPEG" if source.format == "MPO" else str(source.format)
    return DecodedPicture(image, name, tuple(repairs))


def encode_png(image: Image.Image) -> bytes:
    """Encode an RGB picture as PNG: same pixels, same bytes; nothing but pixels is written."""
    if image.mode != "RGB":
        raise ValueError(
            f"encode_png takes RGB pictures, not mode {image.mode}; call decode_picture first"
        )
    plain = image.copy()
    plain.info = {}
    buffer = io.BytesIO()
    plain.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def pixel_sha256(image: Image.Image) -> str:
    """Hash size and RGB pixels: equal for equal pictures, whatever file they came from."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()


def _open(data: bytes, limits: PictureLimits) -> Image.Image:
    """Parse the header with the parsers of the allowed formats only."""
    if data.startswith(JPEG_START):
        _check_segments(data)
    Image.init()  # Pillow knows only a few formats by name until then

    # Pillow's exceptions as reasons; what is no picture at all is told from another format.
    try:
        return Image.open(io.BytesIO(data), formats=limits.formats)
    except UnidentifiedImageError:
        if other := _format_by_magic(data[:32], limits.formats):
            detail = f"{other} is not one of {', '.join(limits.formats)}"
            raise PictureError("unsupported_format", detail) from None
        detail = f"{len(data)} bytes that no allowed format recognises"
        raise PictureError("not_an_image", detail) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError("too_many_pixels", str(error)) from None
    except MemoryError:
        raise
    except Exception as error:
        if data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 > len(data):
            detail = f"WebP: {len(data)} bytes are fewer than its header says"
            raise PictureError("truncated", detail) from None
        _raise_decode_error(error)


def _format_by_magic(prefix: bytes, allowed: tuple[str, ...]) -> str | None:
    """Name a format that is not allowed from its first bytes alone: its parser never runs."""
    if len(prefix) < 16:  # the shortest that every test of Pillow can read
        return None
    for name, (_, accepts) in Image.OPEN.items():
        if name not in allowed and accepts is not None and accepts(prefix) is True:
            return name
    return "HEIC or another ISO media file" if prefix[4:8] == b"ftyp" else None


def _check_size(width: int, height: int, limits: PictureLimits) -> None:
    """Check width and height against the limits. Raises PictureError."""
    size, longest, shortest = f"{width}×{height} pixels", max(width, height), min(width, height)
    if shortest < 1:
        raise PictureError("too_small", size)
    if width * height > limits.max_pixels:
        raise PictureError("too_many_pixels", f"{size}, more than {limits.max_pixels} in all")
    if longest > limits.max_aspect_ratio * shortest:
        raise PictureError("aspect_ratio", f"{size}, more than {limits.max_aspect_ratio:g} to 1")
    if longest > limits.max_side:
        raise PictureError("too_large", f"{size}, a side over {limits.max_side}")
    if shortest < limits.min_side:
        raise PictureError("too_small", f"{size}, a side under {limits.min_side}")


def _check_segments(data: bytes) -> None:
    """Check that a JPEG has no more segments than any has a use for. Raises PictureError."""
    at = len(JPEG_START) - 1
    for _ in range(MAX_SEGMENTS):
        if data[at : at + 1] != b"\xff" or data[at + 1 : at + 2] in (b"\xda", b""):
            return
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    raise PictureError(
        "decode_error", f"JPEG: more than {MAX_SEGMENTS} segments in front of the pixels"
    )


def _check_scans(data: bytes, width: int, height: int) -> None:
    """Check that the bytes and pixels of a JPEG bound its decoding. Raises PictureError."""
    most = min(MAX_SCANS, MAX_SCANNED_PIXELS // (width * height))
    if data.count(bytes((0xFF, SCAN))) > most and (number := _count_scans(data)) > most:
        detail = f"{number} scans of {width}×{height} pixels, more than {most}"
        raise PictureError("too_many_scans", detail)


def _check_tiles(source: TiffImagePlugin.TiffImageFile, limits: PictureLimits) -> None:
    """Check that no tile is larger than a picture may be: it is unpacked at once.

    Raises PictureError.
    """
    tags = (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)
    sides = [source.tag_v2.get(tag, 1) for tag in tags]
    width, height = (side if isinstance(side, int) else 1 for side in sides)
    if width * height > limits.max_pixels:
        detail = f"tiles of {width}×{height} pixels, more than {limits.max_pixels} in all"
        raise PictureError("too_many_pixels", detail)


def _count_scans(data: bytes) -> int:
    """Count the scans of a JPEG up to its end mark, as libjpeg finds them.

    Where libjpeg would give up: as many as there can be.
    """
    number = 0
    at = len(JPEG_START) - 1
    while marker := MARKER.search(data, at):
        kind, at = marker[1][0], marker.end()
        if kind == END:
            return number
        number += kind == SCAN

        # Markers with a length say where the next one may be; those inside are data.
        length = int.from_bytes(data[at : at + 2])
        if kind == START or (kind >= FIRST_WITH_LENGTH and length < 2):
            return data.count(bytes((0xFF, SCAN)))
        at += length if kind >= FIRST_WITH_LENGTH else 0
    return number


def _to_rgb(source: Image.Image, repairs: list[PictureRepair]) -> Image.Image:
    """Convert to RGB and add what that took to the repairs."""
    if source.mode in GREY_16_BIT:
        repairs.append("16_bit")
        return _grey_from_16_bit(source).convert("RGB")
    if source.has_transparency_data:
        return _on_white(source.convert("RGBA"), repairs)
    if source.mode == "CMYK":
        repairs.append("cmyk")
    return source.convert("RGB")


def _grey_from_16_bit(source: Image.Image) -> Image.Image:
    """Scale 0…65535 to 0…255, rounded; Pillow itself would clip what is above 255 to white."""
    values = np.asarray(source).astype(np.uint32)  # (height, width)
    grey = ((values + 128) // 257).astype(np.uint8)
    transparent = source.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)


def _on_white(image: Image.Image, repairs: list[PictureRepair]) -> Image.Image:
    """Composite an RGBA picture on white."""
    if image.getchannel("A").getextrema() == (255, 255):
        return image.convert("RGB")
    repairs.append("alpha")
    return Image.alpha_composite(Image.new("RGBA", image.size, (*WHITE, 255)), image).convert("RGB")


def _apply_orientation(
    image: Image.Image, source: Image.Image, repairs: list[PictureRepair]
) -> Image.Image:
    """Turn a picture as the EXIF tag of its source says."""
    try:
        orientation = source.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF block must not cost the picture
        repairs.append("exif_unreadable")
        return image
    if orientation not in TRANSPOSE:
        return image
    repairs.append("exif_rotated")
    return image.transpose(TRANSPOSE[orientation])


def _raise_decode_error(error: Exception) -> NoReturn:
    """Raise a decoder's exception as a PictureError."""
    detail = f"{type(error).__name__}: {error}"
    is_cut = any(sign in str(error).lower() for sign in CUT_SHORT)
    raise PictureError("truncated" if is_cut else "decode_error", detail) from None
