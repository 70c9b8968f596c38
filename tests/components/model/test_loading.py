import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration, T5Config

from components.model.chat import VICUNA_V1_TEMPLATE
from components.model.families import FAMILIES
from components.model.loading import load_backbone
from tests.components.model import families
from tests.components.model.families import build_tokenizer, save_family


def load(folder: Path) -> object:
    return load_backbone(str(folder), None, torch.float32, "sdpa", pad_to_square=False)


def named(architecture: str, folder: Path) -> Path:
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llava", "architectures": [architecture]})
    )
    return folder


def test_there_is_a_small_model_of_every_family() -> None:
    assert len(families.FAMILIES) == sum(len(family.architectures) for family in FAMILIES)


def test_an_unknown_architecture_is_refused_with_the_supported_ones_and_the_way_to_add_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        ValueError, match=r"is a FuyuForCausalLM; supported: .*Gemma3For.*components/model/families"
    ):
        load(named("FuyuForCausalLM", tmp_path))
    assert Path("docs/models.md").is_file()


def test_a_checkpoint_in_llavas_own_format_is_named_with_its_conversion(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"LLaVA's own format .*llava-hf/llava-1.5-7b-hf.*convert_llava_weights_to_hf",
    ):
        load(named("LlavaLlamaForCausalLM", tmp_path))


def test_a_tokenizer_without_the_image_token_is_refused(llava_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llava_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"image_token_index": 7, "image_token_id": 7})
    )
    with pytest.raises(ValueError, match="the tokenizer's <image> is not the model's image token"):
        load(folder)


@pytest.mark.parametrize("name", ["llava", "internvl"])
def test_the_chat_template_of_an_older_processor_is_read(name: str, tmp_path: Path) -> None:
    save_family(name, tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    assert load(tmp_path).tokenizer.chat_template == VICUNA_V1_TEMPLATE
    template = "{{ messages[0]['content'][-1]['text'] }}"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert load(tmp_path).tokenizer.chat_template == template


@pytest.mark.parametrize("name", ["models/none", "/no/such/folder", "owner/is/none", "nobody"])
def test_what_is_neither_a_folder_nor_on_the_hub_is_named(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"^{name}: is no folder, and the hub does not give it: "
    ) as error:
        load(Path(name))
    assert "\n" not in str(error.value)


def test_an_encoder_decoder_has_no_summary_tokens_to_give(tmp_path: Path) -> None:
    save_family("instructblip", tmp_path)
    tokenizer = build_tokenizer(("<image>",), None)
    config = InstructBlipConfig.from_pretrained(tmp_path)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config.text_config = T5Config(**sizes, vocab_size=len(tokenizer), decoder_start_token_id=0)
    config.use_decoder_only_language_model = False
    InstructBlipForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="encoder-decoder; use an InstructBLIP of Vicuna"):
        load(tmp_path)
