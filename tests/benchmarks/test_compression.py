"""The plain way of compressing against ours and against the formula, on a tiny model."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL.Image import Image

from benchmarks.compression import check_tokens, counted_flops, formula_flops, measure, ways_of
from benchmarks.compression_job import steady_rate
from benchmarks.picture_workloads import Workload, encoded_pictures, jpeg
from benchmarks.plain_compression import plain_pixels, plain_tokens, undo_shortcuts
from components.model.adapters import COMPRESSION
from tests.components.model.conftest import llava_folder, pictures  # noqa: F401
from tests.components.model.tiny import compressor
from tests.flows.test_compress import PARAMS


@pytest.fixture
def workload(llava_folder: Path, pictures: list[Image]) -> Workload:
    return Workload(
        PARAMS,
        encoded_pictures([png(picture) for picture in pictures], 5),
        lambda: compressor(llava_folder),
    )


def png(picture: Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def test_every_way_compresses_every_picture(workload: Workload) -> None:
    rates = measure(ways_of(workload), rounds=1)
    assert set(rates) == {"ours", "plain", "shards", "ours_model", "plain_model"}
    assert all(rate > 0 for rate in rates.values())


def test_the_plain_way_runs_every_layer_and_gives_our_tokens(workload: Workload) -> None:
    model, plain = workload.build(), undo_shortcuts(workload.build())
    assert not [layer for layer in plain.adapters.layers if "forward" in vars(layer)]
    assert not [
        layer
        for layer in plain.backbone.vlm.model.vision_tower.encoder.layers
        if "forward" in vars(layer)
    ]
    check_tokens(workload, model, plain)
    found = plain_tokens(plain, plain_pixels(plain, workload.pictures))
    one_by_one = [
        plain_tokens(plain, plain_pixels(plain, [picture])) for picture in workload.pictures
    ]
    np.testing.assert_allclose(found, np.concatenate(one_by_one), rtol=1e-5, atol=1e-5)


def test_ways_that_differ_are_not_timed(workload: Workload) -> None:
    other = workload.build()
    with torch.no_grad():
        other.queries.weight.mul_(1.01)
    with pytest.raises(SystemExit, match="do not compute the same"):
        check_tokens(workload, workload.build(), undo_shortcuts(other))


def test_merged_pass_has_the_operations_of_the_plan(workload: Workload) -> None:
    model = workload.build()
    with_adapter = counted_flops(workload, model)
    model.adapters.merge(COMPRESSION)
    assert counted_flops(workload, model) == formula_flops(model) < with_adapter


def test_pictures_are_jpeg_of_one_size_and_the_same_each_time() -> None:
    first, again = (jpeg(np.random.default_rng(0)) for _ in range(2))
    assert first == again
    assert first.startswith(b"\xff\xd8")
    assert 20_000 < len(first) < 200_000


def test_steady_rate_leaves_out_the_start_of_every_worker() -> None:
    """Two workers that start at 10 s and finish a shard of 4 pictures a second each."""
    ends = [(10.0 + second, 4) for second in range(1, 6) for _ in range(2)]
    assert steady_rate(ends, num_workers=2) == pytest.approx(8.0)
