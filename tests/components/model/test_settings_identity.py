"""Settings that change answers change the identity of a base; their notation does not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.model.settings_identity import settings_sha256
from tests.components.model.families import FAMILIES, save_family

Change = Callable[[dict[str, Any]], object]


def change_json(path: Path, change: Change) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    change(content)
    path.write_text(json.dumps(content))


CHANGES: dict[str, tuple[str, Change]] = {
    "rope": ("config.json", lambda c: c["text_config"]["rope_parameters"].update(rope_theta=5e5)),
    "old rope": ("config.json", lambda c: c["text_config"].update(rope_theta=5e5)),
    "activation": ("config.json", lambda c: c["text_config"].update(hidden_act="gelu")),
    "epsilon": ("config.json", lambda c: c["text_config"].update(rms_norm_eps=1e-3)),
    "image token": ("config.json", lambda c: c.update(image_token_index=5)),
    "vision layer": ("config.json", lambda c: c.update(vision_feature_layer=-1)),
    "vision activation": ("config.json", lambda c: c["vision_config"].update(hidden_act="relu")),
    "new key": ("config.json", lambda c: c["text_config"].update(logit_softcap=30.0)),
    "resampling": ("processor_config.json", lambda c: c["image_processor"].update(resample=2)),
    "rescaling": (
        "processor_config.json",
        lambda c: c["image_processor"].update(rescale_factor=1.0),
    ),
    "old processor": ("preprocessor_config.json", lambda c: c.update(resample=2)),
    "merges": ("tokenizer.json", lambda c: c["model"]["merges"].pop()),
    "added token": ("tokenizer.json", lambda c: c["added_tokens"][0].update(lstrip=True)),
    "end token": ("tokenizer_config.json", lambda c: c.update(eos_token="<pad>")),
    "special": ("special_tokens_map.json", lambda c: c.update(eos_token="<pad>")),
    "added file": ("added_tokens.json", lambda c: c.update({"<x>": 90})),
    "end": ("generation_config.json", lambda c: c.update(eos_token_id=[2, 7])),
}
SAME: dict[str, tuple[str, Change]] = {
    "version": ("config.json", lambda c: c.update(transformers_version="4.31.0")),
    "place": ("config.json", lambda c: c.update(_name_or_path="/home/somebody")),
    "type": ("config.json", lambda c: (c.pop("dtype", None), c.update(torch_dtype="bfloat16"))),
    "inner type": ("config.json", lambda c: c["text_config"].update(dtype="bfloat16")),
    "architectures": ("config.json", lambda c: c["architectures"].append("LlavaModel")),
    "cache": ("config.json", lambda c: c["text_config"].update(use_cache=False)),
    "start": ("config.json", lambda c: c["text_config"].update(initializer_range=0.5)),
    "order": ("config.json", lambda c: c.update({"model_type": c.pop("model_type")})),
    "numbers": (
        "config.json",
        lambda c: c["text_config"]["rope_parameters"].update(rope_theta=10000),
    ),
    "code": ("config.json", lambda c: c.update(auto_map={"AutoConfig": "x.X"})),
    "class": (
        "processor_config.json",
        lambda c: c["image_processor"].update(image_processor_type="CLIPImageProcessorPil"),
    ),
    "padding": (
        "tokenizer.json",
        lambda c: c.update(padding={"pad_id": 0}, truncation={"max_length": 9}),
    ),
    "side": (
        "tokenizer_config.json",
        lambda c: c.update(padding_side="right", name_or_path="here"),
    ),
    "sampling": ("generation_config.json", lambda c: c.update(temperature=0.7, do_sample=True)),
}


@pytest.fixture
def folder(llava_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(llava_folder, tmp_path / "model")


@pytest.mark.parametrize(("file", "change"), CHANGES.values(), ids=CHANGES)
def test_what_changes_answers_changes_the_identity(folder: Path, file: str, change: Change) -> None:
    before = settings_sha256(folder)
    change_json(folder / file, change)
    assert settings_sha256(folder) != before


@pytest.mark.parametrize(("file", "change"), SAME.values(), ids=SAME)
def test_how_it_is_written_does_not(folder: Path, file: str, change: Change) -> None:
    before = settings_sha256(folder)
    change_json(folder / file, change)
    assert settings_sha256(folder) == before


def test_the_chat_template_counts_wherever_it_is(folder: Path) -> None:
    before = settings_sha256(folder)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    assert settings_sha256(folder) != before
    change_json(
        folder / "chat_template.json", lambda content: content.update(chat_template=template)
    )
    assert settings_sha256(folder) == before
    (folder / "chat_template.json").unlink()
    change_json(
        folder / "tokenizer_config.json", lambda content: content.update(chat_template=template)
    )
    assert settings_sha256(folder) == before
    (folder / "chat_template.jinja").write_text(template.replace("ASSISTANT", "BOT"))
    assert settings_sha256(folder) != before


def test_weights_and_other_files_are_no_part_of_it(folder: Path) -> None:
    before = settings_sha256(folder)
    (folder / "model.safetensors").unlink()
    (folder / "README.md").write_text("changed")
    assert settings_sha256(folder) == before


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_one(name: str, tmp_path: Path) -> None:
    save_family(name, tmp_path)
    before = settings_sha256(tmp_path)
    change_json(
        tmp_path / "config.json", lambda config: config["text_config"].update(hidden_act="relu")
    )
    assert settings_sha256(tmp_path) != before
    if name == "instructblip":
        before = settings_sha256(tmp_path)
        change_json(
            tmp_path / "qformer_tokenizer" / "tokenizer.json",
            lambda content: content["added_tokens"].pop(),
        )
        assert settings_sha256(tmp_path) != before


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "processor_config.json", "chat_template.jinja"]
)
def test_a_file_that_is_cut_is_named(folder: Path, file: str) -> None:
    (folder / file).write_bytes(
        b"" if file.endswith("jinja") else (folder / file).read_bytes()[:50]
    )
    with pytest.raises(ValueError, match=rf"model/{file}: is (empty|no whole JSON)"):
        settings_sha256(folder)
