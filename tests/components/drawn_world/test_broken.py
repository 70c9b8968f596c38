from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.drawn_world.broken import Fault, Row, broken_caption_members, broken_instruct_rows
from components.drawn_world.file_formats import jpeg_bytes
from components.pictures import PictureLimits, decode_with_repairs

LIMITS = PictureLimits(
    formats=("JPEG", "PNG", "GIF"),
    max_pixels=10**6,
    max_aspect_ratio=10.0,
    max_side=1000,
    min_side=16,
)


def picture(seed: int) -> bytes:
    """A coarse mosaic."""
    tiles = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return jpeg_bytes(Image.fromarray(tiles).resize((96, 96), Image.Resampling.NEAREST))


def plant(folder: Path) -> tuple[list[Row], list[Fault]]:
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    rows = []
    for index in range(5):
        (pictures / f"{index}.jpg").write_bytes(picture(index))
        turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "tiles"}]
        rows.append({"id": str(index), "image": f"pictures/{index}.jpg", "conversations": turns})
    return broken_instruct_rows(pictures, rows, seed=3)


def test_broken_instruct_rows_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    assert plant(tmp_path / "a") == plant(tmp_path / "b")
    files = [{p.name: p.read_bytes() for p in (tmp_path / x / "pictures").iterdir()} for x in "ab"]
    assert files[0] == files[1]


def test_broken_instruct_rows_lists_every_row_it_adds(tmp_path: Path) -> None:
    rows, faults = plant(tmp_path)
    assert [row["id"] for row in rows] == [fault.id for fault in faults]
    assert len({fault.fault for fault in faults}) == len(faults)


@pytest.mark.parametrize(
    ("fault", "repair", "tolerance"),
    [
        ("exif_rotated", "exif_rotated", 8),
        ("png_as_jpg", None, 0),
        ("cmyk_jpeg", "cmyk", 8),
        ("animated_gif", "first_frame", 40),
    ],
)
def test_repaired_pictures_show_what_a_healthy_one_shows(
    tmp_path: Path, fault: str, repair: str | None, tolerance: float
) -> None:
    plant(tmp_path)
    broken = next((tmp_path / "pictures").glob(f"broken-{fault}.*"))
    decoded = decode_with_repairs(broken.read_bytes(), LIMITS)
    assert decoded.repairs == ((repair,) if repair else ())
    pixels = np.asarray(decoded.image).astype(float)
    healthy = [
        np.asarray(decode_with_repairs(picture(index), LIMITS).image).astype(float)
        for index in range(5)
    ]
    assert min(float(np.abs(pixels - other).mean()) for other in healthy) <= tolerance


def test_broken_caption_members_are_the_same_every_time_and_all_listed() -> None:
    healthy = [(str(index), picture(index), "tiles") for index in range(20)]
    members, faults = broken_caption_members(healthy, seed=3)
    assert (members, faults) == broken_caption_members(healthy, seed=3)
    keys = {name.rsplit("/", 1)[-1].split(".")[0] for name, _ in members}
    assert keys == {fault.id.rsplit("/", 1)[-1] for fault in faults}
