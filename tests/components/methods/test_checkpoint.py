import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from components.drawn_world.tiny_llava import build_tiny_llava
from components.methods.checkpoint import load_compressor, save_compressor
from components.methods.fwd2bot import DoubleForward
from components.model.adapters import PASSES
from components.model.segments import text_segment
from tests.components.model.tiny import TEXTS, TINY, load

CPU = torch.device("cpu")


def reload(folder: Path, base: Path) -> DoubleForward:
    return load_compressor(folder, str(base), CPU, torch.float32)


@pytest.fixture
def saved(model: DoubleForward, tmp_path: Path) -> Path:
    with torch.no_grad():
        model.log_logit_scale.fill_(1.5)
    save_compressor(model, tmp_path / "compressor", {"train/loss": 0.5})
    return tmp_path / "compressor"


@torch.no_grad()
def test_a_loaded_compressor_is_the_one_that_was_saved(
    model: DoubleForward, saved: Path, llava_folder: Path
) -> None:
    loaded = reload(saved, llava_folder)
    assert not loaded.training
    theirs = dict(loaded.named_parameters())
    assert all(torch.equal(parameter, theirs[name]) for name, parameter in model.named_parameters())
    image_embeddings = text_segment(torch.randn(2, 9, model.backbone.dim))
    assert torch.equal(
        model.compress_images(image_embeddings), loaded.compress_images(image_embeddings)
    )
    assert loaded.params == model.params


@torch.no_grad()
@pytest.mark.parametrize("adapter", PASSES)
def test_peft_loads_each_adapter_by_itself(
    model: DoubleForward, saved: Path, llava_folder: Path, adapter: str
) -> None:
    theirs = PeftModel.from_pretrained(load(llava_folder).vlm, str(saved / adapter))
    embeddings = torch.randn(1, 6, model.backbone.dim)
    with model.adapters.use(adapter):
        expected = model.read(text_segment(embeddings))
    hidden = theirs.base_model.model.model.language_model(
        inputs_embeds=embeddings
    ).last_hidden_state
    torch.testing.assert_close(hidden, expected)


def test_saving_again_writes_the_same_bytes_and_no_machine_paths(
    saved: Path, llava_folder: Path, tmp_path: Path
) -> None:
    save_compressor(reload(saved, llava_folder), tmp_path / "again", {"train/loss": 0.5})
    files = sorted(path.relative_to(saved) for path in saved.rglob("*") if path.is_file())
    assert [file.as_posix() for file in files] == [
        "README.md",
        "compression/adapter_config.json",
        "compression/adapter_model.safetensors",
        "config.json",
        "generation/adapter_config.json",
        "generation/adapter_model.safetensors",
        "summary_queries.safetensors",
    ]
    for file in files:
        assert (saved / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
        assert str(llava_folder.parent).encode() not in (saved / file).read_bytes(), file


def test_the_model_card_names_the_base_model_and_the_metrics(saved: Path) -> None:
    card = (saved / "README.md").read_text()
    assert "base_model: tiny-llava" in card
    assert "| train/loss | 0.5 |" in card


def test_another_base_model_is_refused_with_both_hashes(
    saved: Path, llava_folder: Path, tmp_path: Path
) -> None:
    vlm, processor = build_tiny_llava(TINY, TEXTS, seed=1)
    vlm.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="SHA-256") as error:
        reload(saved, tmp_path / "other")
    for folder in (tmp_path / "other", llava_folder):
        assert load(folder).weights_sha256 in str(error.value)


def test_another_preprocessing_is_refused(saved: Path, llava_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llava_folder, tmp_path / "other-mean")
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["image_processor"]["image_mean"] = [0.4, 0.4, 0.4]
    (folder / "processor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"preprocessing is .*0\.4.* needs .*0\.5"):
        reload(saved, folder)


def test_another_number_of_summary_tokens_is_refused(saved: Path, llava_folder: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["compressor"]["num_summary_tokens"] = 5
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"queries.weight is \(4, 32\), .* needs \(5, 32\)"):
        reload(saved, llava_folder)


@pytest.mark.parametrize("fault", ["missing", "unexpected"])
def test_missing_and_unexpected_adapter_weights_are_refused(
    saved: Path, llava_folder: Path, fault: str
) -> None:
    path = saved / "generation" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    if fault == "missing":
        del tensors[name]
    else:
        name = "base_model.model.model.vision_tower.lora_A.weight"
        tensors[name] = torch.zeros(1)
    save_file(tensors, path)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")) as error:
        reload(saved, llava_folder)
    assert "missing" in str(error.value)


@pytest.mark.parametrize("version", [1, 3])
def test_another_format_is_refused(saved: Path, llava_folder: Path, version: int) -> None:
    config = json.loads((saved / "config.json").read_text()) | {"format_version": version}
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="format_version"):
        reload(saved, llava_folder)


@torch.no_grad()
def test_half_precision_base_weights_keep_the_adapters_exact(
    saved: Path, model: DoubleForward, llava_folder: Path
) -> None:
    loaded = load_compressor(saved, str(llava_folder), CPU, torch.bfloat16)
    assert loaded.backbone.dtype == torch.bfloat16
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    theirs = dict(loaded.named_parameters())
    assert all(torch.equal(parameter, theirs[name]) for name, parameter in trained.items())


@pytest.mark.parametrize(
    "file", ["summary_queries.safetensors", "generation/adapter_model.safetensors"]
)
@pytest.mark.parametrize(
    "fault", ["gone", "cut", "pointer", "empty", "not finite", "whole numbers", "another rank"]
)
def test_trained_weights_that_are_not_whole_are_refused_by_name(
    saved: Path, llava_folder: Path, file: str, fault: str
) -> None:
    path = saved / file
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if tensors[name].ndim == 2)
    if fault == "gone":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif fault == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 13\n")
    elif fault == "empty":
        path.write_bytes(b"")
    else:
        changed = {
            "not finite": lambda tensor: tensor.fill_(float("inf")),
            "whole numbers": lambda tensor: tensor.int(),
            "another rank": lambda tensor: tensor[:1].clone(),
        }[fault]
        save_file(tensors | {name: changed(tensors[name])}, path)
    said = {
        "gone": "is missing",
        "cut": "is cut or no safetensors file",
        "pointer": "is a pointer of git-lfs",
        "empty": "is empty",
        "not finite": "not finite",
        "whole numbers": "no such numbers",
        "another rank": "shape of",
    }[fault]
    with pytest.raises(ValueError, match=said) as error:
        reload(saved, llava_folder)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "{}", '{"format_version": 2}', '{"compressor": 3}']
)
def test_a_configuration_that_cannot_be_read_is_named(
    saved: Path, llava_folder: Path, content: str
) -> None:
    (saved / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"compressor/config\.json: ") as error:
        reload(saved, llava_folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-03'),
        ("config.json", '"hidden_act": "silu"', '"hidden_act": "gelu"'),
        ("chat_template.jinja", "ASSISTANT:", "BOT:"),
        ("tokenizer_config.json", '"eos_token": "</s>"', '"eos_token": "<pad>"'),
        ("processor_config.json", '"resample": 3', '"resample": 2'),
    ],
)
def test_a_base_that_answers_otherwise_is_refused(
    saved: Path, llava_folder: Path, tmp_path: Path, file: str, old: str, new: str
) -> None:
    folder = shutil.copytree(llava_folder, tmp_path / "changed")
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    with pytest.raises(
        ValueError,
        match=r"base model \S+changed: SHA-256 of config\.json, tokenizer, chat template",
    ):
        reload(saved, folder)
