from pathlib import Path

import pytest
import torch

from components.baselines.single_forward import SingleForward, build_single_forward
from components.methods.checkpoint import load_compressor, save_compressor
from components.model.adapters import COMPRESSION
from components.training.forward import LossParams
from components.training.optimizer import trained_parameters
from components.training.sampler import StepSamples
from components.training.step import backward_step
from tests.components.methods.building import collated
from tests.components.model.tiny import COMPRESSOR, awakened, load, prepared

K = COMPRESSOR.num_summary_tokens
BOTH = LossParams(autoregressive_weight=1.0, contrastive_weight=1.0, max_similarity_weight=0.0)


@pytest.fixture
def single(llava_folder: Path) -> SingleForward:
    return awakened(build_single_forward(load(llava_folder), COMPRESSOR, seed=0))


def test_the_vision_tower_compresses(single: SingleForward, llava_folder: Path) -> None:
    pixels = prepared(torch.randn(2, 3, 48, 48))
    ran = []
    single.backbone.language_model.register_forward_pre_hook(lambda *_: ran.append(1))
    assert -1 < single.adapters.cosine() < 1  # over the layers that both adapters are in
    summary_tokens = single.compress_pictures(pixels)
    assert summary_tokens.shape == (2, K, single.backbone.dim)
    assert not ran
    summary_tokens.square().sum().backward()
    trained = trained_parameters(single)
    grads = {name: p.grad for name, p in trained.items() if p.grad is not None and p.grad.any()}
    assert "vision_queries.weight" in grads
    assert {name.split(".")[3] for name in grads if "lora_" in name} == {"vision_tower"}
    assert all(f".{COMPRESSION}." in name for name in trained if "vision_tower" in name)
    base = load(llava_folder)
    with torch.no_grad():
        plain = base.encode_images(pixels).embeddings
        torch.testing.assert_close(single.backbone.encode_images(pixels).embeddings, plain)


@torch.no_grad()
def test_a_saved_one_comes_back_the_same(
    single: SingleForward, llava_folder: Path, tmp_path: Path
) -> None:
    save_compressor(single, tmp_path, {})
    loaded = load_compressor(tmp_path, str(llava_folder), torch.device("cpu"), torch.float32)
    pixels = prepared(torch.randn(2, 3, 48, 48))
    assert isinstance(loaded, SingleForward)
    assert torch.equal(loaded.compress_pictures(pixels), single.compress_pictures(pixels))


def test_both_losses_reach_all_that_is_trained(single: SingleForward) -> None:
    """Fwd2Bot's groups: conversations, and pairs whose captions the language model compresses."""
    batch = collated(single, StepSamples((0, 1, 2, 4), (0, 1, 3, 5)))
    losses = backward_step(single, [batch], BOTH)
    assert losses["contrastive_loss"] > 0
    assert losses["autoregressive_loss"] > 0
    assert not [
        name for name, p in trained_parameters(single).items() if p.grad is None or not p.grad.any()
    ]


def test_tokens_that_depend_on_all_cannot_be_left_out(single: SingleForward) -> None:
    single.keep_first(K)
    with pytest.raises(ValueError, match="each depends on all"):
        single.keep_first(2)


def test_adapters_that_are_not_apart_are_refused(llava_folder: Path) -> None:
    shared = COMPRESSOR.adapters.model_copy(update={"sharing": "shared"})
    with pytest.raises(
        ValueError, match=r"single_forward needs adapters\.sharing per_pass, not shared"
    ):
        build_single_forward(
            load(llava_folder), COMPRESSOR.model_copy(update={"adapters": shared}), seed=0
        )
