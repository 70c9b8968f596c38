"""Pictures of the bad-input list: results or reasons. Files are made by Pillow or by hand."""

import io
import pickle
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from components.pictures import (
    PICTURE_REASONS,
    PICTURE_REPAIRS,
    PictureError,
    PictureLimits,
    decode_picture,
    decode_with_repairs,
    encode_png,
    pixel_sha256,
)

LIMITS = PictureLimits(
    formats=("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"),
    max_pixels=1_000_000,
    max_aspect_ratio=20.0,
    max_side=2000,
    min_side=4,
)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def corners() -> Image.Image:
    """8 × 6 pixels, blue, with a red top left quarter: every orientation looks different."""
    image = Image.new("RGB", (8, 6), BLUE)
    image.paste(RED, (0, 0, 4, 3))
    return image


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of_declared_size(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + png_chunk(b"IEND", b"")
    )


def reason(data: bytes, limits: PictureLimits = LIMITS) -> str:
    with pytest.raises(PictureError) as error:
        decode_picture(data, limits)
    assert error.value.reason in PICTURE_REASONS
    assert error.value.detail
    return error.value.reason


# --- refused --------------------------------------------------------------------------------------


def test_no_bytes_is_an_empty_file() -> None:
    assert reason(b"") == "empty_file"


@pytest.mark.parametrize(
    "data",
    [b"<html>404</html>", b'{"a": 1}', b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0" * 99],
)
def test_text_named_like_a_picture_is_not_an_image(data: bytes) -> None:
    assert reason(data) == "not_an_image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_file_cut_short_is_truncated(kind: str, kept: float) -> None:
    data = encoded(noise(), kind)
    assert reason(data[: int(len(data) * kept)]) == "truncated"


def test_jpeg_without_its_last_two_bytes_is_truncated() -> None:
    assert reason(encoded(noise(), "JPEG")[:-2]) == "truncated"


def test_jpeg_header_alone_is_truncated() -> None:
    data = encoded(noise(), "JPEG")
    assert reason(data[: data.index(b"\xff\xda")]) == "truncated"


@pytest.mark.parametrize("size", [(20_000, 20_000), (12_000, 10_000), (1001, 1000)])
def test_declared_size_is_refused_before_decoding(size: tuple[int, int]) -> None:
    assert reason(png_of_declared_size(*size)) == "too_many_pixels"


def test_long_thin_picture_is_refused_although_it_has_few_pixels() -> None:
    assert reason(encoded(Image.new("RGB", (65_500, 1)), "JPEG")) == "aspect_ratio"
    assert reason(encoded(Image.new("RGB", (10, 201)))) == "aspect_ratio"
    assert decode_picture(encoded(Image.new("RGB", (10, 200))), LIMITS).size == (10, 200)


def test_long_side_is_bounded_too() -> None:
    assert reason(encoded(Image.new("RGB", (2001, 200)))) == "too_large"


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 9)])
def test_tiny_picture_is_too_small(size: tuple[int, int]) -> None:
    assert reason(encoded(Image.new("RGB", size))) == "too_small"


def test_float_picture_is_an_unsupported_mode() -> None:
    values = np.full((8, 8), np.nan, dtype=np.float32)
    assert reason(encoded(Image.fromarray(values), "TIFF")) == "unsupported_mode"
    assert reason(encoded(Image.new("I", (8, 8)), "TIFF")) == "unsupported_mode"


def test_png_with_a_wrong_checksum_is_not_an_image() -> None:
    data = bytearray(encoded(noise()))
    data[20] ^= 1  # the height, inside IHDR
    assert reason(bytes(data)) == "not_an_image"


def test_png_with_a_text_bomb_is_a_decode_error() -> None:
    bomb = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 100_000_000))
    data = encoded(corners())
    assert reason(data[:33] + bomb + data[33:]) == "decode_error"


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "ICO"])
def test_format_off_the_list_is_named_and_never_parsed(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(noise(), kind)
    Image.init()
    name = Image.open(io.BytesIO(data)).format
    monkeypatch.setitem(
        Image.OPEN, name, (lambda *_: pytest.fail("was parsed"), Image.OPEN[name][1])
    )
    with pytest.raises(PictureError, match=f"unsupported_format: {name} is not one of JPEG, PNG"):
        decode_picture(data, LIMITS)


def test_heic_is_an_unsupported_format() -> None:
    assert reason(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64) == "unsupported_format"


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]), st.data())
def test_any_damage_gives_a_picture_or_a_reason(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(encoded(noise(size=(16, 12)), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode_picture(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]), LIMITS)
    except PictureError as error:
        assert error.reason in PICTURE_REASONS  # noqa: PT017  # either outcome is right
    else:
        assert image.mode == "RGB"
        assert image.width * image.height <= LIMITS.max_pixels


# --- repaired -------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = np.asarray(corners())
    stored = {  # how a camera stores the upright picture under each orientation
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    picture = decode_with_repairs(data, LIMITS)
    np.testing.assert_array_equal(np.asarray(picture.image), upright)
    assert picture.repairs == ("exif_rotated",)
    assert picture.image.getexif().get(0x0112) is None  # nobody may rotate it again


@pytest.mark.parametrize("orientation", [0, 1, 9, 700])
def test_exif_orientation_without_meaning_changes_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode_with_repairs(encoded(corners(), exif=exif), LIMITS)
    assert picture.repairs == ()
    np.testing.assert_array_equal(np.asarray(picture.image), np.asarray(corners()))


def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = encoded(corners(), "PNG", exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff" + b"\xff" * 30)
    np.testing.assert_array_equal(np.asarray(decode_picture(data, LIMITS)), np.asarray(corners()))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    picture = decode_with_repairs(data, LIMITS)
    assert picture.repairs == ("first_frame",)
    assert picture.image.getpixel((3, 3)) == RED


def test_multi_picture_jpeg_of_a_phone_counts_as_jpeg() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    picture = decode_with_repairs(
        encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]), LIMITS
    )
    assert (picture.format, picture.repairs) == ("JPEG", ("first_frame",))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 1, 128, 129], [257, 32_768, 65_406, 65_535]] * 2, dtype=np.uint16)
    picture = decode_with_repairs(encoded(Image.fromarray(values), kind), LIMITS)
    expected = np.round(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(
        np.asarray(picture.image), np.repeat(expected[..., None], 3, axis=2)
    )
    assert picture.repairs == ("16_bit",)


def test_transparency_is_composited_on_white() -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    image.putpixel((0, 0), (0, 255, 0, 0))  # hidden green
    image.putpixel((1, 0), (0, 0, 0, 128))  # half black
    picture = decode_with_repairs(encoded(image), LIMITS)
    assert [picture.image.getpixel((x, 0)) for x in range(3)] == [WHITE, (127, 127, 127), RED]
    assert picture.repairs == ("alpha",)


def test_opaque_alpha_needs_no_repair() -> None:
    assert (
        decode_with_repairs(encoded(Image.new("RGBA", (8, 8), (1, 2, 3, 255))), LIMITS).repairs
        == ()
    )


def test_grey_with_alpha_and_palette_with_transparency_are_composited() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, *RED])
    palette.putpixel((0, 0), 0)
    for image, options in ((Image.new("LA", (8, 8), (0, 0)), {}), (palette, {"transparency": 0})):
        picture = decode_with_repairs(encoded(image, **options), LIMITS)
        assert picture.image.getpixel((0, 0)) == WHITE
        assert picture.repairs == ("alpha",)
    assert picture.image.getpixel((1, 0)) == RED


@pytest.mark.parametrize(
    ("mode", "colour", "expected"), [("L", 77, (77,) * 3), ("1", 1, WHITE), ("P", RED, RED)]
)
def test_simple_modes_become_rgb(mode: str, colour: object, expected: tuple[int, int, int]) -> None:
    picture = decode_with_repairs(encoded(Image.new(mode, (8, 8), colour)), LIMITS)
    assert picture.image.getpixel((4, 4)) == expected
    assert picture.repairs == ()


def test_cmyk_jpeg_is_not_inverted() -> None:
    picture = decode_with_repairs(
        encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100), LIMITS
    )
    red, green, blue = picture.image.getpixel((8, 8))
    assert red > 245
    assert max(green, blue) < 10
    assert picture.repairs == ("cmyk",)


# --- kept -----------------------------------------------------------------------------------------


def test_trailing_garbage_is_ignored() -> None:
    data = encoded(noise(), "JPEG")
    assert pixel_sha256(decode_picture(data + b"x" * 1_000_000, LIMITS)) == pixel_sha256(
        decode_picture(data, LIMITS)
    )


def test_flipped_byte_inside_a_jpeg_scan_is_not_noticed() -> None:
    data = bytearray(encoded(noise(), "JPEG"))
    clean = pixel_sha256(decode_picture(bytes(data), LIMITS))
    data[len(data) // 2] ^= 0x10
    assert pixel_sha256(decode_picture(bytes(data), LIMITS)) != clean


def test_format_is_that_of_the_bytes() -> None:
    assert decode_with_repairs(encoded(noise(), "GIF"), LIMITS).format == "GIF"


def test_colour_profile_is_ignored_and_not_passed_on() -> None:
    picture = decode_picture(encoded(corners(), icc_profile=b"not a profile"), LIMITS)
    assert picture.info == {}
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(corners()))


# --- the small functions --------------------------------------------------------------------------


def test_encode_png_keeps_every_pixel_and_no_metadata() -> None:
    image = noise()
    image.info = {"icc_profile": b"x", "transparency": (0, 0, 0), "Comment": "secret"}
    data = encode_png(image)
    assert data == encode_png(noise())
    with PngImagePlugin.PngImageFile(io.BytesIO(data)) as png:
        png.load()
        assert png.info == {}
    assert pixel_sha256(decode_picture(data, LIMITS)) == pixel_sha256(image)


def test_encode_png_refuses_other_modes() -> None:
    with pytest.raises(ValueError, match="call decode_picture first"):
        encode_png(Image.new("L", (4, 4)))


def test_pixel_sha256_sees_pixels_and_shape_only() -> None:
    assert pixel_sha256(decode_picture(encoded(noise(), "BMP"), LIMITS)) == pixel_sha256(noise())
    assert pixel_sha256(Image.new("RGB", (4, 6))) != pixel_sha256(Image.new("RGB", (6, 4)))


def test_picture_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(PictureError("truncated", "half")))
    assert (error.reason, error.detail, str(error)) == ("truncated", "half", "truncated: half")


def test_names_of_reasons_and_repairs_are_distinct() -> None:
    names = [*PICTURE_REASONS, *PICTURE_REPAIRS]
    assert len(set(names)) == len(names)


def test_no_module_allows_truncated_pictures() -> None:
    from PIL import ImageFile

    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    sources = [path for folder in ("components", "flows") for path in Path(folder).rglob("*.py")]
    assert not [path for path in sources if "LOAD_TRUNCATED" in path.read_text(encoding="utf-8")]


def test_every_allowed_format_is_known_in_a_fresh_process() -> None:
    """Pillow loads most parsers late; MPO comes as JPEG and is no name of its own."""
    code = """
import io
from PIL import Image
from components.pictures import PictureLimits, decode_picture
data = io.BytesIO()
Image.new("RGB", (20, 20), (255, 0, 0)).save(data, "PNG")
formats = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
limits = PictureLimits(
    formats=formats, max_pixels=10**6, max_aspect_ratio=9.0, max_side=1000, min_side=1
)
print(decode_picture(data.getvalue(), limits).size)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(20, 20)", done.stderr


def test_a_format_that_pillow_does_not_open_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Pillow opens no JPG; choose from .*JPEG"):
        PictureLimits(
            formats=("JPG", "PNG"),
            max_pixels=10**6,
            max_aspect_ratio=9.0,
            max_side=1000,
            min_side=1,
        )


# --- work that neither bytes nor pixels bound -----------------------------------------------------


def progressive(side: int, extra_scans: int, behind: bytes = b"") -> bytes:
    """A JPEG whose last scan, of 14 bytes, comes so many times more."""
    data = encoded(Image.new("RGB", (side, side), BLUE), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * extra_scans + data[-2:] + behind


@pytest.mark.parametrize(
    ("side", "extra_scans", "is_refused"),
    [(900, 0, False), (900, 400, False), (900, 25_000, True), (64, 480, False), (64, 1000, True)],
)
def test_scans_of_a_jpeg_are_bounded(side: int, extra_scans: int, is_refused: bool) -> None:
    data = progressive(side, extra_scans)
    if is_refused:
        assert reason(data) == "too_many_scans"
    else:
        assert decode_picture(data, LIMITS).size == (side, side)


def test_scans_times_pixels_are_bounded() -> None:
    large = LIMITS.model_copy(update={"max_pixels": 30_000_000, "max_side": 6000})
    decode_picture(progressive(5000, 10), large)
    with pytest.raises(
        PictureError, match="too_many_scans: 110 scans of 5000×5000 pixels, more than 85"
    ):
        decode_picture(progressive(5000, 100), large)


def test_what_looks_like_scans_behind_or_inside_of_segments_is_none() -> None:
    """Films behind a picture, thumbnails in its EXIF."""
    marks = b"\xff\xda" * 20_000
    assert decode_picture(progressive(64, 0, marks), LIMITS)
    data = progressive(64, 0)
    assert decode_picture(data[:2] + b"\xff\xe5" + (40_002).to_bytes(2) + marks + data[2:], LIMITS)


def test_a_jpeg_of_more_segments_than_any_is_refused() -> None:
    segment = b"\xff\xe1" + (10).to_bytes(2) + b"Exif\0\0ab"
    data = encoded(noise(), "JPEG")
    assert reason(data[:2] + segment * 100_000 + data[2:]) == "decode_error"
    assert decode_picture(data[:2] + segment * 100 + data[2:], LIMITS)


def tiff(*tags: tuple[int, int, int, int], data: bytes) -> bytes:
    """A TIFF of 64 × 64 grey pixels; `data` stands at 8."""
    plain = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    entries = sorted([*plain, *tags])
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(data))
        + data
        + struct.pack("<H", len(entries))
        + packed
        + bytes(4)
    )


def test_a_tile_that_is_larger_than_any_picture_is_refused() -> None:
    data = zlib.compress(bytes(10_000_000))
    data += bytes(len(data) % 2)
    tiles = [
        (259, 3, 1, 8),
        (322, 4, 1, 60_000),
        (323, 4, 1, 30_000),
        (324, 4, 1, 8),
        (325, 4, 1, len(data)),
    ]
    assert reason(tiff(*tiles, data=data)) == "too_many_pixels"


def test_tags_that_all_refer_to_the_same_bytes_take_little_memory(
    recwarn: pytest.WarningsRecorder,
) -> None:
    """20,000 tags of 1 MB each in a file of 1.2 MB; and nothing is said about each of them."""
    strips = [(259, 3, 1, 1), (273, 4, 1, 8), (278, 4, 1, 64), (279, 4, 1, 4096)]
    data = tiff(
        *strips, *((1000 + tag, 7, 1_000_000, 8) for tag in range(20_000)), data=bytes(1_000_000)
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decode_picture(data, LIMITS).size == (64, 64)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_of_an_animation_of_many_frames_one_is_decoded() -> None:
    data = encoded(Image.new("P", (64, 48)), "GIF")
    start = 13 + 3 * (2 << (data[10] & 7)) if data[10] & 128 else 13
    found = decode_with_repairs(data[:start] + data[start:-1] * 50_000 + b";", LIMITS)
    assert found.repairs == ("first_frame",)
