import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from components.model.backbone import Backbone, pad_to_square, weights_sha256
from components.model.loading import load_backbone
from tests.components.model.tiny import TINY, compressor, load


@torch.no_grad()
def test_image_embeddings_are_the_connector_output_of_the_second_last_layer(
    backbone: Backbone, pictures: list[Image.Image]
) -> None:
    read = backbone.prepare(pictures)
    pixel_values = read.tensors["pixel_values"]
    assert pixel_values.shape == (8, 3, TINY.image_size, TINY.image_size)
    embeddings = backbone.encode_images(read).embeddings
    hidden = backbone.vlm.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states[
        -2
    ]
    torch.testing.assert_close(embeddings, backbone.vlm.model.multi_modal_projector(hidden[:, 1:]))
    assert embeddings.shape == (8, backbone.num_image_tokens, backbone.dim)


@torch.no_grad()
def test_embedded_chats_are_what_the_model_makes_of_pictures_and_ids(
    backbone: Backbone, pictures: list[Image.Image]
) -> None:
    read = backbone.prepare(pictures[:2])
    ids = torch.tensor(
        [[1, *[backbone.image_token_id] * backbone.num_image_tokens, word] for word in (7, 9)]
    )
    expected = backbone.vlm(input_ids=ids, **read.tensors).logits
    embeddings = backbone.embed_chat(ids, backbone.encode_images(read).embeddings)
    hidden = backbone.language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    torch.testing.assert_close(backbone.lm_head(hidden), expected)


def test_nothing_of_the_base_model_is_trained(backbone: Backbone) -> None:
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_the_vision_tower_stays_in_evaluation_mode(llava_folder: Path) -> None:
    model = compressor(llava_folder).train()
    assert model.backbone.language_model.training
    assert not any(module.training for module in model.backbone.vlm.model.vision_tower.modules())


@pytest.mark.parametrize("size", [(7, 4), (4, 7), (5, 5)])
def test_pad_to_square_centres_as_llava_does(size: tuple[int, int]) -> None:
    padded = np.asarray(pad_to_square(Image.new("RGB", size, (255, 0, 0)), (0, 0, 255)))
    side = max(size)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    expected = np.full((side, side, 3), (0, 0, 255), dtype=np.uint8)
    expected[top : top + size[1], left : left + size[0]] = (255, 0, 0)
    np.testing.assert_array_equal(padded, expected)


def test_padding_takes_the_mean_colour_of_the_image_processor(llava_folder: Path) -> None:
    backbone = load(llava_folder)
    backbone.image_processor.image_mean = (0.5, 0.25, 0.0)
    padded = np.asarray(backbone.squared([Image.new("RGB", (4, 2), (255, 0, 0))])[0])
    expected = np.full((4, 4, 3), (127, 63, 0))
    expected[1:3] = (255, 0, 0)
    assert np.array_equal(padded, expected)


def test_without_padding_a_wide_picture_is_cropped(llava_folder: Path) -> None:
    picture = Image.new("RGB", (96, 48), (255, 255, 255))
    cropping = load_backbone(str(llava_folder), None, torch.float32, "sdpa", pad_to_square=False)
    assert cropping.prepare([picture]).tensors["pixel_values"].min() == 1
    assert load(llava_folder).prepare([picture]).tensors["pixel_values"].min() < 0.1
    assert cropping.preprocessing != load(llava_folder).preprocessing


def test_the_hash_depends_on_the_tensors_only(llava_folder: Path, tmp_path: Path) -> None:
    tensors = load_file(llava_folder / "model.safetensors")
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[:5]}, tmp_path / "a.safetensors")
    save_file({name: tensors[name] for name in names[5:]}, tmp_path / "b.safetensors")
    assert (
        weights_sha256(tmp_path)
        == weights_sha256(llava_folder)
        == load(llava_folder, torch.bfloat16).weights_sha256
    )
    tensors[names[3]].flatten()[0] += 1
    save_file(tensors, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").unlink()
    assert weights_sha256(tmp_path) != weights_sha256(llava_folder)


def test_other_architectures_are_refused_with_the_list_of_supported_ones(tmp_path: Path) -> None:
    config = LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="LlamaForCausalLM; supported: LlavaForConditionalGeneration"
    ):
        load(tmp_path)


def test_code_that_lies_in_the_folder_is_not_run(llava_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llava_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "trap.Config", "AutoModel": "trap.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    marker = tmp_path / "was-run"
    (folder / "trap.py").write_text(f"open({str(marker)!r}, 'w')")
    load(folder)
    assert not marker.exists()


def test_pickled_weights_are_refused(llava_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llava_folder, tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"pickled weights only \(pytorch_model\.bin\)"):
        load(folder)
