"""Batches against one picture at a time; a decoder that dies takes one picture along."""

import io
import json
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from components.compression.corpus import Picture
from components.compression.picture_decoding import Batch, decode_batches
from components.files.row_watch import MAX_DEATHS
from components.model.prepared import PreparedPictures
from components.store.rejects import UnreadablePictureError
from tests.components.compression.models import LIMITS
from tests.forked import exit_code_of


def picture(width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 9), (width, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def prepare(images: list[Image.Image]) -> PreparedPictures:
    return PreparedPictures(
        len(images), {"red": torch.tensor([float(np.asarray(image)[0, 0, 0]) for image in images])}
    )


def broken() -> bytes:
    raise UnreadablePictureError("image_missing", "gone")


def run(pictures: list[Picture], batch_size: int, folder: Path) -> list[Batch]:
    found = list(decode_batches(pictures, prepare, LIMITS, batch_size, folder / "watch"))
    assert not (folder / "watch").exists()
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(is_good=st.lists(st.booleans(), max_size=25), batch_size=st.integers(1, 9))
def test_batches_hold_every_picture_once_in_order(
    tmp_path: Path, is_good: list[bool], batch_size: int
) -> None:
    pictures = [
        Picture(f"{number:02d}", partial(picture, number + 20) if good else broken)
        for number, good in enumerate(is_good)
    ]
    found = run(pictures, batch_size, tmp_path)
    chunks = [
        range(start, len(is_good))[:batch_size] for start in range(0, len(is_good), batch_size)
    ]
    assert [batch.image_ids for batch in found] == [
        [f"{n:02d}" for n in chunk if is_good[n]] for chunk in chunks
    ]
    assert [[reject.image_id for reject in batch.rejects] for batch in found] == [
        [f"{n:02d}" for n in chunk if not is_good[n]] for chunk in chunks
    ]
    for batch in found:
        widths = [int(image_id) + 20 for image_id in batch.image_ids]
        assert (batch.widths, batch.heights) == (widths, [9] * len(widths))
        assert len(batch.pictures) == len(widths)
        assert not widths or batch.pictures.tensors["red"].tolist() == widths


def test_a_disk_that_fails_ends_the_batch_and_blames_no_picture(tmp_path: Path) -> None:
    def fail() -> bytes:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        run([Picture("a", partial(picture, 20)), Picture("b", fail)], 2, tmp_path)


def decode_a_deadly_one(watch: Path, found: Path) -> None:
    """Decode four pictures, of which one ends the process as a fault in C code does."""

    def deadly(images: list[Image.Image]) -> PreparedPictures:
        if images[0].width == 13:
            os.abort()
        return prepare(images)

    pictures = [Picture(f"p{width}", partial(picture, width)) for width in (11, 12, 13, 14)]
    batches = decode_batches(pictures, deadly, LIMITS, 2, watch)
    rows = [(batch.image_ids, [reject[:2] for reject in batch.rejects]) for batch in batches]
    found.write_text(json.dumps(rows))


def test_a_picture_that_kills_the_process_becomes_a_reject(tmp_path: Path) -> None:
    watch, found = tmp_path / "watch", tmp_path / "found.json"
    for _ in range(MAX_DEATHS):
        assert exit_code_of(decode_a_deadly_one, watch, found) == -signal.SIGABRT
    assert exit_code_of(decode_a_deadly_one, watch, found) == 0
    assert json.loads(found.read_text()) == [
        [["p11", "p12"], []],
        [["p14"], [["p13", "kills_decoder"]]],
    ]
