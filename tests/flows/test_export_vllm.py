"""Exports read by transformers and PEFT alone: logits and answers are those of the project."""

import base64
import io
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from components.answering.serving import save_generation_adapter, save_language_model
from components.compression.identity import provenance_of
from components.methods.checkpoint import load_compressor
from components.model.chat import encode_prompt
from components.store.store_reader import StoreReader
from flows.export_vllm import export_vllm
from tests.components.compression.models import write_models
from tests.components.model.families import save_family
from tests.components.model.tiny import COMPRESSOR, compressor
from tests.components.store.stores import random_rows, write_store

QUESTION, IMAGE_ID, NEW_TOKENS = "what colour is the </s> circle?", "b.png", 12


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def store(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> StoreReader:
    provenance = provenance_of(trained, "float16", "float32")
    rows = random_rows(["a.png", IMAGE_ID], seed=0, provenance=provenance)
    return StoreReader.open(
        write_store(tmp_path_factory.mktemp("stores") / "store", [rows], provenance)
    )


@pytest.fixture(scope="module")
def exported(trained: Path, store: StoreReader, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "tiny"
    export_vllm(folder, store, trained, None, IMAGE_ID, QUESTION, NEW_TOKENS)
    return folder


@torch.inference_mode()
def test_plain_model_adapter_and_embeddings_give_the_logits_and_answers_of_the_generation_pass(
    exported: Path, trained: Path, store: StoreReader
) -> None:
    request = json.loads((exported / "request.json").read_text())
    assert {**request, "prompt_embeds": None} == {
        "model": "fwd2bot",
        "prompt_embeds": None,
        "max_tokens": NEW_TOKENS,
        "temperature": 0.0,
    }
    embeds = torch.load(io.BytesIO(base64.b64decode(request["prompt_embeds"])), weights_only=True)
    assert (embeds.ndim, embeds.dtype) == (2, torch.float32)
    base = AutoModelForCausalLM.from_pretrained(exported / "language_model", dtype=torch.float32)
    assert isinstance(base, LlamaForCausalLM)
    plain_logits = base(inputs_embeds=embeds[None]).logits
    served = PeftModel.from_pretrained(base, exported / "adapter").eval()
    logits = served(inputs_embeds=embeds[None]).logits

    model = load_compressor(
        trained, str(trained.parent / "tiny-llava"), torch.device("cpu"), torch.float32
    )
    tokens = torch.from_numpy(store.tokens([IMAGE_ID]))
    ids = torch.tensor(
        [encode_prompt(model.backbone.chat, QUESTION, COMPRESSOR.num_summary_tokens)]
    )
    expected = model.backbone.lm_head(model.generation_hidden(tokens, ids, torch.ones_like(ids)))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert (plain_logits - expected).abs().max() > 0.01  # the adapter does something

    written = served.generate(
        inputs_embeds=embeds[None], max_new_tokens=NEW_TOKENS, do_sample=False
    )[0].tolist()
    assert written == model.answer(tokens, ids.tolist(), NEW_TOKENS)[0]


def test_files_are_what_a_server_of_language_models_reads(exported: Path) -> None:
    config = json.loads((exported / "language_model" / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["LlamaForCausalLM"], "llama")
    tokenizer = AutoTokenizer.from_pretrained(exported / "language_model")
    generation = json.loads((exported / "language_model" / "generation_config.json").read_text())
    assert tokenizer.eos_token_id in generation["eos_token_id"]
    adapter = json.loads((exported / "adapter" / "adapter_config.json").read_text())
    assert adapter["target_modules"] == sorted(COMPRESSOR.adapters.targets)
    assert (adapter["r"], adapter["lora_alpha"]) == (
        COMPRESSOR.adapters.rank,
        COMPRESSOR.adapters.alpha,
    )
    assert (adapter["modules_to_save"], adapter["use_dora"]) == (None, False)
    with safe_open(exported / "adapter" / "adapter_model.safetensors", "pt") as tensors:
        names = set(tensors.keys())
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    assert len(names) == config["num_hidden_layers"] * len(COMPRESSOR.adapters.targets) * 2
    readme = (exported / "README.md").read_text()
    assert "--enable-prompt-embeds" in readme
    assert "--max-lora-rank 8 --lora-modules fwd2bot=adapter" in readme


def test_the_same_export_has_the_same_bytes(
    exported: Path, trained: Path, store: StoreReader, tmp_path: Path
) -> None:
    export_vllm(tmp_path / "again", store, trained, None, IMAGE_ID, QUESTION, NEW_TOKENS)
    files = [path.relative_to(exported) for path in exported.rglob("*") if path.is_file()]
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes(), name


def test_errors_leave_nothing_under_the_name(
    trained: Path, store: StoreReader, exported: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"c\.png.*nearest"):
        export_vllm(tmp_path / "out", store, trained, None, "c.png", QUESTION, NEW_TOKENS)
    with pytest.raises(ValueError, match="lower --max-new-tokens"):
        export_vllm(tmp_path / "out", store, trained, None, IMAGE_ID, QUESTION, 10**6)
    assert not (tmp_path / "out").exists()


def test_trained_layers_are_exported_themselves_and_other_models_refused(
    trained: Path, tmp_path: Path
) -> None:
    adapters = COMPRESSOR.adapters.model_copy(update={"sharing": "none"})
    whole = compressor(
        trained.parent / "tiny-llava", params=COMPRESSOR.model_copy(update={"adapters": adapters})
    )
    with torch.no_grad():
        whole.backbone.language_model.norm.weight.mul_(2)
    save_language_model(whole.backbone, tmp_path / "language_model")
    assert not save_generation_adapter(whole, tmp_path / "adapter", "base")
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "language_model")
    torch.testing.assert_close(alone.model.norm.weight, whole.backbone.language_model.norm.weight)
    save_family("gemma3", tmp_path / "gemma")
    with pytest.raises(ValueError, match=r"Gemma3TextModel, which cannot be taken out"):
        save_language_model(compressor(tmp_path / "gemma").backbone, tmp_path / "other")
