"""A LLaVA around another language model: its own sight, the other's words."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from flows.graft import graft
from tests.components.model.conftest import llava_folder  # noqa: F401
from tests.components.model.tiny import TINY, load, prepared, write_tiny_llava


def write_language_model(folder: Path, vocab_size: int, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(7)
    sizes = {
        "hidden_size": TINY.text_hidden_size,
        "intermediate_size": TINY.text_intermediate_size,
        "num_hidden_layers": TINY.text_num_layers,
        "num_attention_heads": TINY.text_num_heads,
        "num_key_value_heads": TINY.text_num_heads,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **(sizes | changes))).eval()
    model.save_pretrained(folder)
    return model


@torch.no_grad()
@pytest.mark.parametrize("num_missing", [0, 5])
def test_the_result_sees_as_before_and_speaks_like_the_other(
    llava_folder: Path,
    tmp_path: Path,
    num_missing: int,
) -> None:
    before = load(llava_folder)
    vocab_size = before.vlm.config.text_config.vocab_size - num_missing
    donor = write_language_model(tmp_path / "llm", vocab_size)
    after = load(graft(str(llava_folder), str(tmp_path / "llm"), tmp_path / "grafted"))
    pixels = prepared(torch.randn(2, 3, 48, 48))
    assert torch.equal(
        after.encode_images(pixels).embeddings, before.encode_images(pixels).embeddings
    )
    ids = torch.randint(0, vocab_size, (2, 7))
    logits = after.lm_head(after.language_model(ids).last_hidden_state)
    torch.testing.assert_close(logits[..., :vocab_size], donor(ids).logits)
    last = torch.tensor([[vocab_size + num_missing - 1]])
    assert torch.equal(after.embed(last), before.embed(last)) == bool(num_missing)


@torch.no_grad()
def test_of_a_llava_the_language_model_is_taken(llava_folder: Path, tmp_path: Path) -> None:
    before, donor = load(llava_folder), load(write_tiny_llava(tmp_path / "other", seed=9))
    after = load(graft(str(llava_folder), str(tmp_path / "other"), tmp_path / "grafted"))
    assert torch.equal(after.lm_head.weight[:5], donor.lm_head.weight[:5])
    pixels = prepared(torch.randn(2, 3, 48, 48))
    assert torch.equal(
        after.encode_images(pixels).embeddings, before.encode_images(pixels).embeddings
    )


def test_another_shape_is_refused(llava_folder: Path, tmp_path: Path) -> None:
    write_language_model(tmp_path / "llm", 300, intermediate_size=64)
    with pytest.raises(
        ValueError, match=r"mlp\.gate_proj\.weight is \(64, 32\) in the language model, \(48, 32\)"
    ):
        graft(str(llava_folder), str(tmp_path / "llm"), tmp_path / "grafted")
    assert not (tmp_path / "grafted").exists()


def test_a_folder_that_exists_is_left_alone(llava_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds mine\.txt"):
        graft(str(llava_folder), str(llava_folder), tmp_path)


@pytest.mark.parametrize("name", ["rms_norm_eps", "hidden_act", "rope_parameters"])
def test_a_language_model_that_computes_otherwise_is_refused(
    llava_folder: Path,
    tmp_path: Path,
    name: str,
) -> None:
    values = {
        "rms_norm_eps": 0.1,
        "hidden_act": "gelu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 9e5},
    }
    write_language_model(tmp_path / "llm", 200, **{name: values[name]})
    with pytest.raises(ValueError, match=f"{name} is .* in the language model"):
        graft(str(llava_folder), str(tmp_path / "llm"), tmp_path / "grafted")


@pytest.mark.parametrize("side", ["base", "llm"])
@pytest.mark.parametrize("fault", ["missing", "cut", "config"])
def test_what_is_not_whole_is_refused_on_both_sides(tmp_path: Path, side: str, fault: str) -> None:
    folders = {"base": write_tiny_llava(tmp_path / "base"), "llm": tmp_path / "llm"}
    write_language_model(folders["llm"], 200)
    path = folders[side] / "model.safetensors"
    if fault == "missing":
        tensors = load_file(path)
        del tensors[
            next(name for name in sorted(tensors) if name.endswith("layers.1.mlp.up_proj.weight"))
        ]
        save_file(tensors, path)
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        (folders[side] / "config.json").write_text("{")
    outcome = {
        "missing": "1 missing, and would be random",
        "cut": "is cut",
        "config": "config.json: is no whole JSON",
    }
    with pytest.raises(ValueError, match=outcome[fault]) as error:
        graft(str(folders["base"]), str(folders["llm"]), tmp_path / "grafted")
    assert str(folders[side]) in str(error.value)
    assert not (tmp_path / "grafted").exists()
