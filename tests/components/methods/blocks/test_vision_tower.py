"""What is read of the tower, of CLIP's and of SigLIP's, which has no class token."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from components.baselines.single_forward import build_single_forward
from components.drawn_world.tiny_llava import build_config, build_processor, build_tokenizer
from components.methods.blocks.vision_tower import (
    Needs,
    check_needs,
    class_attention,
    llava_of,
    matrix_weights,
    read_tower,
    tower_shape,
    vision_weights,
)
from components.methods.fwd2bot import build_double_forward
from components.methods.method import Method
from components.model.backbone import Backbone
from tests.components.methods.blocks.test_token_reduction import built
from tests.components.methods.settings import REDUCERS, SETTINGS
from tests.components.model.tiny import COMPRESSOR, TEXTS, TINY, awakened, load

WITH_CLASS_TOKEN = ["prumerge", "prumerge_plus"]
WITHOUT_CLASS_TOKEN = sorted(set(REDUCERS) - set(WITH_CLASS_TOKEN))


def save_siglip_llava(folder: Path, layer: int) -> None:
    """A tiny LLaVA around SigLIP, whose connector reads all that the tower says at a layer."""
    tokenizer = build_tokenizer(TEXTS, TINY.vocab_size)
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=48,
        patch_size=16,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=build_config(TINY, tokenizer).text_config,
        image_token_index=tokenizer.get_vocab()["<image>"],
        image_seq_length=9,
        vision_feature_layer=layer,
        vision_feature_select_strategy="full",
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).eval().save_pretrained(folder)
    processor = build_processor(TINY, tokenizer)
    processor.image_processor = SiglipImageProcessorPil(size={"height": 48, "width": 48})
    processor.save_pretrained(folder)


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-siglip-llava"
    save_siglip_llava(folder, -2)
    return folder


@torch.no_grad()
def test_layers_are_the_towers_own_without_the_class_token(
    backbone: Backbone, pictures: list[Image.Image]
) -> None:
    prepared = backbone.prepare(pictures[:2])
    reading = read_tower(llava_of(backbone, "a test"), prepared, Needs(layers=(-2, -4, 1)))
    states = backbone.vlm.model.vision_tower(
        **prepared.tensors, output_hidden_states=True
    ).hidden_states
    for patches, layer in zip(reading.patches, (2, 0, 1), strict=True):
        assert torch.equal(patches, states[layer][:, 1:])
    assert reading.attention is None
    assert reading.keys is None


@torch.no_grad()
def test_class_attention_is_that_of_the_block_behind_the_features(
    backbone: Backbone, llava_folder: Path, pictures: list[Image.Image]
) -> None:
    prepared = backbone.prepare(pictures[:2])
    reading = read_tower(llava_of(backbone, "a test"), prepared, Needs(attention=True))
    # with all its layers
    tower = LlavaForConditionalGeneration.from_pretrained(llava_folder).model.vision_tower
    seen = {}
    for name in ("q_proj", "k_proj"):
        layer = getattr(tower.encoder.layers[-1].self_attn, name)
        layer.register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: output})
        )
    tower(**prepared.tensors)
    weights = (seen["q_proj"] @ seen["k_proj"].transpose(1, 2) / 16**0.5).softmax(2)
    torch.testing.assert_close(reading.attention, weights[:, 0, 1:])
    torch.testing.assert_close(reading.keys, seen["k_proj"][:, 1:])


@torch.no_grad()
def test_class_attention_in_half_precision_does_not_round_its_scores(
    llava_folder: Path, pictures: list[Image.Image]
) -> None:
    """Large scores of patches that are much alike, as a trained CLIP's are."""
    backbone = llava_of(load(llava_folder, torch.bfloat16), "a test")
    states = backbone.vision_states(backbone.prepare(pictures[:2]))
    block = backbone.vlm.model.vision_tower.encoder.layers[-1]
    block.self_attn.q_proj.weight.mul_(20)
    normed = block.layer_norm1(states[2])
    query, keys = (
        block.self_attn.q_proj(normed[:, :1]).float(),
        block.self_attn.k_proj(normed).float(),
    )
    expected = torch.einsum("bqc,bkc->bqk", query, keys).div(4).softmax(2)[:, 0, 1:]
    torch.testing.assert_close(class_attention(backbone, states)[0], expected)


def test_layers_that_do_not_run_cost_nothing(backbone: Backbone) -> None:
    tower = backbone.vlm.model.vision_tower
    everything = matrix_weights(tower) + matrix_weights(backbone.vlm.model.multi_modal_projector)
    assert vision_weights(backbone) == everything - matrix_weights(tower.encoder.layers[2])


@pytest.mark.parametrize("layer", [-1, 3, 4, -5])
def test_layers_that_are_not_there_or_not_computed_are_refused(
    backbone: Backbone, layer: int
) -> None:
    with pytest.raises(
        ValueError, match=rf"no hidden state {layer} that is computed; use -4 to -2"
    ):
        check_needs(llava_of(backbone, "a test"), Needs(layers=(-2, layer)))


@torch.no_grad()
@pytest.mark.parametrize("layer", [-1, -2])
def test_a_llava_around_siglip_reads_pictures_as_transformers_does(
    tmp_path: Path, pictures: list[Image.Image], layer: int
) -> None:
    save_siglip_llava(tmp_path, layer)
    backbone = llava_of(load(tmp_path), "a test")
    prepared = backbone.prepare(pictures)
    expected = LlavaForConditionalGeneration.from_pretrained(tmp_path).model.get_image_features(
        **prepared.tensors
    )
    found = backbone.encode_images(prepared).embeddings
    assert backbone.num_image_tokens == 9
    assert tower_shape(backbone).side == 3
    torch.testing.assert_close(found, torch.stack(list(expected.pooler_output)))


@torch.no_grad()
def test_pictures_for_siglip_are_squared_and_resized_to_its_size(
    siglip_folder: Path, pictures: list[Image.Image]
) -> None:
    backbone = load(siglip_folder)
    assert backbone.prepare(pictures).tensors["pixel_values"].shape == (8, 3, 48, 48)
    assert backbone.preprocessing == {
        "pad_to_square": True,
        "image_size": 48,
        "image_mean": (0.5, 0.5, 0.5),
        "image_std": (0.5, 0.5, 0.5),
    }


@torch.no_grad()
@pytest.mark.parametrize("name", WITHOUT_CLASS_TOKEN)
def test_reducers_work_around_siglip(
    name: str, siglip_folder: Path, pictures: list[Image.Image]
) -> None:
    model = built(siglip_folder, name)
    together = model.compress_pictures(model.backbone.prepare(pictures))
    alone = torch.cat(
        [model.compress_pictures(model.backbone.prepare([picture])) for picture in pictures]
    )
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert together.isfinite().all()


@torch.no_grad()
def test_average_pooling_to_all_patches_is_the_whole_llava(
    siglip_folder: Path, pictures: list[Image.Image]
) -> None:
    model = built(siglip_folder, "average_pooling", count=9)
    prepared = model.backbone.prepare(pictures)
    torch.testing.assert_close(
        model.compress_pictures(prepared), model.backbone.encode_images(prepared).embeddings
    )


@pytest.mark.parametrize("name", WITH_CLASS_TOKEN)
def test_reducers_by_class_attention_are_refused_around_siglip(
    name: str, siglip_folder: Path
) -> None:
    assert name in SETTINGS
    with pytest.raises(ValueError, match=r"tiny-siglip-llava: .* no class token.* another method"):
        built(siglip_folder, name)


def test_class_attention_behind_the_last_layer_is_refused(backbone: Backbone) -> None:
    backbone.vlm.config.vision_feature_layer = -1
    with pytest.raises(ValueError, match="reads the last layer"):
        check_needs(llava_of(backbone, "a test"), Needs(attention=True))


@torch.no_grad()
@pytest.mark.parametrize("build", [build_double_forward, build_single_forward])
def test_one_pass_and_two_work_around_siglip(
    build: Callable[..., Method], siglip_folder: Path, pictures: list[Image.Image]
) -> None:
    model = awakened(build(load(siglip_folder), COMPRESSOR, seed=0))
    together = model.compress_pictures(model.backbone.prepare(pictures))
    alone = torch.cat(
        [model.compress_pictures(model.backbone.prepare([picture])) for picture in pictures]
    )
    assert together.shape == (8, 4, 32)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
