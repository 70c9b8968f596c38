"""Vision features from disk: those of the tower, computed once, by whichever worker."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from components.methods.fwd2bot import DoubleForward
from components.model.families.llava import LlavaBackbone
from components.pictures import pixel_sha256
from components.training import feature_cache
from components.training.alignment import backward_alignment
from components.training.budgets import all_tokens
from components.training.collate import TrainBatch, collate
from components.training.feature_cache import FeatureCache
from components.training.forward import LossParams
from components.training.optimizer import trained_parameters
from components.training.sampler import StepSamples
from components.training.step import backward_step
from tests.components.training.world import LENGTHS, build_model, in_processes, samples

BOTH = LossParams(autoregressive_weight=1.0, contrastive_weight=0.5, max_similarity_weight=0.0)
GROUPS = StepSamples(
    autoregressive=(0, 2, 4, 5, 6, 7, 1, 9), contrastive=(0, 5, 3, 8, 6, 1, 13, 18)
)
PICTURES = {
    pixel_sha256(it.image): it.image
    for it in samples(20).values()
    if isinstance(it.image, Image.Image)
}
HASHES = sorted(PICTURES)


def filled(folder: Path, model: DoubleForward) -> FeatureCache:
    cache = FeatureCache(folder, model.backbone)
    cache.fill(HASHES, lambda place: PICTURES[HASHES[place]], print)
    return cache


def test_features_of_other_code_lie_elsewhere(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = build_model(llava_folder).backbone
    assert isinstance(backbone, LlavaBackbone)
    first = FeatureCache(tmp_path, backbone).folder
    assert FeatureCache(tmp_path, backbone).folder == first
    monkeypatch.setattr(feature_cache, "code_sha256", lambda modules: f"another {modules}")
    assert FeatureCache(tmp_path, backbone).folder != first


def batch_of(
    model: DoubleForward, cache: FeatureCache | None, without: tuple[int, ...] = ()
) -> TrainBatch:
    table = {i: samples(40)[i] for group in GROUPS for i in group}
    for index, sample in table.items():
        if cache and sample.image is not None and index not in without:
            assert isinstance(sample.image, Image.Image)
            table[index] = sample._replace(image=cache.read(pixel_sha256(sample.image)))
    return collate(table, GROUPS, model.backbone, all_tokens(model.num_summary_tokens), LENGTHS)


def gradient(model: DoubleForward) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in trained_parameters(model).values()])


@pytest.mark.parametrize("without", [(), (0, 3)])
def test_a_step_from_features_has_the_gradient_of_one_from_pixels(
    llava_folder: Path, tmp_path: Path, without: tuple[int, ...]
) -> None:
    model = build_model(llava_folder).double()
    backward_step(model, [batch_of(model, None)], BOTH)
    expected = gradient(model)
    batch = batch_of(model, filled(tmp_path, model), without)
    assert (len(batch.pictures), batch.num_pictures) == (
        len(without),
        batch_of(model, None).num_pictures,
    )
    backward_step(model, [batch], BOTH)
    assert (gradient(model) - expected).norm() / expected.norm() < 1e-8


def test_alignment_reads_features_too(llava_folder: Path, tmp_path: Path) -> None:
    model = build_model(llava_folder).double()
    expected = backward_alignment(model, [batch_of(model, None)], 1 - 1e-9)
    found = backward_alignment(model, [batch_of(model, filled(tmp_path, model))], 1 - 1e-9)
    torch.testing.assert_close(found, expected)


def test_what_is_there_is_not_computed_again(model: DoubleForward, tmp_path: Path) -> None:
    before = {
        path: path.stat().st_mtime_ns
        for path in filled(tmp_path, model).folder.rglob("*.safetensors")
    }
    assert len(before) == len(HASHES)
    cache = FeatureCache(tmp_path, model.backbone)
    cache.fill(HASHES, lambda place: pytest.fail("a picture was opened"), print)
    assert {
        path: path.stat().st_mtime_ns for path in cache.folder.rglob("*") if path.is_file()
    } == before


def test_an_interrupted_filling_ends_with_the_same_bytes(
    model: DoubleForward, tmp_path: Path
) -> None:
    whole, cut = filled(tmp_path / "whole", model), filled(tmp_path / "cut", model)
    for name in HASHES[::3]:
        cut.path(name).unlink()
    filled(tmp_path / "cut", model)
    for name in HASHES:
        assert whole.path(name).read_bytes() == cut.path(name).read_bytes()


def fill(rank: int, folder: Path, llava_folder: Path) -> None:
    filled(folder, build_model(llava_folder))
    assert len(list(folder.rglob("*.safetensors"))) == len(HASHES)


def test_two_workers_fill_it_together(llava_folder: Path, tmp_path: Path) -> None:
    in_processes(2, fill, tmp_path, llava_folder)
    cache = FeatureCache(tmp_path, build_model(llava_folder).backbone)
    features = cache.backbone.vision_features(cache.backbone.prepare([PICTURES[HASHES[0]]]))[0]
    torch.testing.assert_close(cache.read(HASHES[0]), features)


def test_another_preprocessing_or_number_type_has_another_folder(
    llava_folder: Path, tmp_path: Path
) -> None:
    folders = set()
    for dtype, is_padded in ((torch.float32, True), (torch.float32, False), (torch.bfloat16, True)):
        backbone = build_model(llava_folder).to(dtype).backbone
        backbone.pad_to_square = is_padded
        folders.add(FeatureCache(tmp_path, backbone).folder)
    assert len(folders) == 3


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(path.read_bytes()[:50]), lambda path: path.unlink()]
)
def test_a_damaged_file_is_named_with_the_way_out(
    model: DoubleForward, tmp_path: Path, damage
) -> None:  # type: ignore[no-untyped-def]
    cache = filled(tmp_path, model)
    damage(cache.path(HASHES[0]))
    with pytest.raises(ValueError, match=rf"{HASHES[0]}.*remove it, it will be computed again"):
        cache.read(HASHES[0])
