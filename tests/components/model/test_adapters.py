import contextlib
import warnings
from pathlib import Path

import pytest
import torch
from PIL.Image import Image
from transformers import LlavaForConditionalGeneration

from components.costs.llava_shapes import SEVEN_B, llava_config
from components.methods.fwd2bot import DoubleForward, build_double_forward
from components.methods.method import enable_gradient_checkpointing
from components.model.adapters import COMPRESSION, GENERATION, PASSES
from components.model.backbone import Backbone
from components.model.families.llava import LlavaBackbone
from components.model.segments import text_segment
from tests.components.model.tiny import COMPRESSOR, TINY, compressor, load


def test_lora_sits_on_every_linear_layer_of_the_language_model_and_nowhere_else(
    model: DoubleForward,
) -> None:
    lora = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert all(name.startswith("backbone.vlm.model.language_model.layers.") for name in lora)
    num_matrices = 2  # A and B
    assert (
        len(lora)
        == num_matrices * len(PASSES) * len(COMPRESSOR.adapters.targets) * TINY.text_num_layers
    )


def test_only_adapters_queries_and_logit_scale_are_trained(model: DoubleForward) -> None:
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {
        "queries.weight",
        "log_logit_scale",
    }
    assert {name for name, _ in model.named_parameters() if "lora_" in name} < trained


def test_switching_leaves_gradients_on_for_both_adapters(model: DoubleForward) -> None:
    for adapter in (*PASSES, None):
        with model.adapters.use(adapter):
            assert all(p.requires_grad for name, p in model.named_parameters() if "lora_" in name)


def test_blocks_nest_and_end_with_what_was_active_before(model: DoubleForward) -> None:
    switch = model.adapters
    with switch.use(COMPRESSION):
        with contextlib.suppress(RuntimeError), switch.use(GENERATION):
            assert switch.active == GENERATION
            raise RuntimeError
        assert switch.active == COMPRESSION
        assert all(layer.active_adapters == [COMPRESSION] for layer in switch.layers)
    assert switch.active is None
    assert all(layer.active_adapters == [] for layer in switch.layers)


def test_an_unknown_adapter_is_refused(model: DoubleForward) -> None:
    with pytest.raises(ValueError, match="no pass 'default'"):
        model.adapters.use("default")


@torch.no_grad()
def test_untrained_adapters_and_no_adapter_are_the_base_model(backbone: Backbone) -> None:
    embeddings = torch.randn(2, 5, backbone.dim)
    expected = backbone.language_model(inputs_embeds=embeddings).last_hidden_state
    model = build_double_forward(backbone, COMPRESSOR, seed=0)
    for adapter in (*PASSES, None):
        with model.adapters.use(adapter):
            assert torch.equal(model.read(text_segment(embeddings)), expected)


def test_the_seed_decides_how_training_starts(llava_folder: Path) -> None:
    torch.manual_seed(5)  # what was drawn before does not matter
    first, again, other = (
        build_double_forward(load(llava_folder), COMPRESSOR, seed) for seed in (0, 0, 1)
    )
    starts = [
        torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])
        for model in (first, again, other)
    ]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize(
    ("rank", "expected"), [(8, 19_988_480), (16, 39_976_960), (64, 159_907_840), (128, 319_815_680)]
)
def test_the_adapters_of_the_7b_model_have_the_published_sizes(
    backbone: Backbone, rank: int, expected: int
) -> None:
    """By hand: rank · 32 layers · (4 · (4096 + 4096) + 3 · (4096 + 11008)), for each adapter."""
    params = COMPRESSOR.model_copy(
        update={"adapters": COMPRESSOR.adapters.model_copy(update={"rank": rank})}
    )
    with torch.device("meta"):
        vlm = LlavaForConditionalGeneration(llava_config(SEVEN_B))
        large = LlavaBackbone(
            vlm, backbone.chat, backbone.image_processor, backbone.source, pad_to_square=True
        )
        model = build_double_forward(large, params, seed=0)
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    sizes = {
        adapter: sum(n for name, n in trained.items() if adapter in name.split("."))
        for adapter in PASSES
    }
    assert sizes == dict.fromkeys(PASSES, expected)
    assert sum(trained.values()) == 2 * expected + 4 * 4096 + 1  # queries and the logit scale


def merged(folder: Path, dtype: torch.dtype = torch.float32) -> DoubleForward:
    model = compressor(folder, dtype).eval()
    model.adapters.merge(COMPRESSION)
    return model


@torch.inference_mode()
def test_a_merged_adapter_gives_the_same_tokens_without_its_layers(
    llava_folder: Path, pictures: list[Image]
) -> None:
    model, fast = compressor(llava_folder).eval(), merged(llava_folder)
    expected = model.compress_pictures(model.backbone.prepare(pictures))
    torch.testing.assert_close(
        fast.compress_pictures(fast.backbone.prepare(pictures)), expected, rtol=1e-5, atol=1e-5
    )
    # whose adapters do nothing
    base = build_double_forward(load(llava_folder), COMPRESSOR, seed=0).eval()
    assert not torch.allclose(
        base.compress_pictures(base.backbone.prepare(pictures)), expected, atol=1e-3
    )
    assert not [name for name, _ in fast.named_parameters() if "lora_" in name]


@torch.inference_mode()
def test_merging_in_half_precision_rounds_no_worse_than_two_products(
    llava_folder: Path, pictures: list[Image]
) -> None:
    # the weights that both round from
    exact = compressor(llava_folder, torch.bfloat16).float().eval()
    expected = exact.compress_pictures(exact.backbone.prepare(pictures))
    errors = [
        (model.compress_pictures(model.backbone.prepare(pictures)).float() - expected).norm()
        for model in (
            compressor(llava_folder, torch.bfloat16).eval(),
            merged(llava_folder, torch.bfloat16),
        )
    ]
    assert errors[1] < 1.5 * errors[0]


def test_after_merging_other_passes_and_the_base_are_refused(llava_folder: Path) -> None:
    model = merged(llava_folder)
    for name in (GENERATION, None):
        with pytest.raises(
            ValueError, match=f"no pass {name!r}; use one of compression; an adapter is merged"
        ):
            model.adapters.use(name)
    with model.adapters.use(COMPRESSION):
        pass


def test_a_shared_adapter_merges_for_both_passes_and_none_for_neither(llava_folder: Path) -> None:
    for sharing in ("shared", "none"):
        adapters = COMPRESSOR.adapters.model_copy(update={"sharing": sharing})
        model = compressor(
            llava_folder, params=COMPRESSOR.model_copy(update={"adapters": adapters})
        ).eval()
        embeddings = torch.randn(2, 5, model.backbone.dim)
        with torch.no_grad(), model.adapters.use(GENERATION):
            expected = model.read(text_segment(embeddings))
        model.adapters.merge(COMPRESSION)
        with torch.no_grad(), model.adapters.use(GENERATION):
            torch.testing.assert_close(
                model.read(text_segment(embeddings)), expected, rtol=1e-5, atol=1e-5
            )


def test_nothing_is_said_of_names_that_libraries_have_replaced(llava_folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = compressor(llava_folder)
        enable_gradient_checkpointing(model)
