"""A compressor for an inference server: a language model, a LoRA adapter, prompt embeddings.

vLLM reads embeddings in place of a prompt for language models alone. So the language model is saved
without the vision side, and the adapter of the generation pass under its names of weights. The
stored tokens, which stand in the chat for a picture, come with each request.
"""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaModel,
    MistralModel,
    Qwen2Model,
)

from components.methods.checkpoint import ADAPTER_FILE, adapter_tensors, save_tensors
from components.methods.method import Method
from components.model.adapters import GENERATION
from components.model.backbone import Backbone
from components.model.chat import encode_prompt
from components.model.generation import end_token_ids
from components.model.pretrained import NO_CODE, save_model

# decoders with the same weights alone and inside the vision-language model
LANGUAGE_MODELS = (LlamaModel, MistralModel, Qwen2Model)


def save_language_model(backbone: Backbone, folder: Path) -> None:
    """Save the language model without adapters as a Hugging Face folder, with its tokenizer.

    Raises ValueError for a language model that cannot stand alone.
    """
    decoder: Any = backbone.language_model
    if not isinstance(decoder, LANGUAGE_MODELS):
        names = ", ".join(kind.__name__ for kind in LANGUAGE_MODELS)
        raise ValueError(
            f"{backbone.source.name}: its language model is a {type(decoder).__name__}, "
            f"which cannot be taken out of it; of {names} it can"
        )

    # the weights under the names of a model that stands alone
    tensors: dict[str, Tensor] = {}
    for name, tensor in decoder.state_dict().items():
        if ".lora_" not in name:
            tensors[f"model.{name.replace('.base_layer.', '.')}"] = tensor
    for name, tensor in backbone.lm_head.state_dict().items():
        tensors[f"lm_head.{name}"] = tensor

    # no weights are made: it takes these tensors over
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(decoder.config, dtype=backbone.dtype, **NO_CODE)
    model.load_state_dict(tensors, assign=True)

    # the server stops where this project does
    tokenizer = backbone.tokenizer
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end_token_ids(backbone),
        pad_token_id=tokenizer.pad_token_id,
    )
    save_model(model, folder)
    tokenizer.save_pretrained(folder)


def save_generation_adapter(model: Method, folder: Path, base: str) -> bool:
    """Save the adapter of the generation pass in PEFT's layout, for the language model `base`.

    Returns False, and writes nothing, if the pass has no adapter, since the layers themselves were
    trained.
    """
    params = model.params.adapters
    adapter = params.adapter_of[GENERATION]
    if adapter is None:
        return False

    # the names of its weights in a language model that stands alone
    inside = f"base_model.model.{model.backbone.decoder_name}."
    tensors = {}
    for name, tensor in adapter_tensors(model, adapter).items():
        if name.startswith(inside):
            tensors[name.replace(inside, "base_model.model.model.")] = tensor

    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        target_modules=list(params.targets),
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=base,
    )
    config.save_pretrained(str(folder))

    # PEFT writes a set in any order; the export has the same bytes each time
    path = folder / "adapter_config.json"
    content = {**json.loads(path.read_text()), "target_modules": sorted(params.targets)}
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    save_tensors(tensors, folder / ADAPTER_FILE)
    return True


@torch.inference_mode()
def prompt_embeds(backbone: Backbone, summary_tokens: np.ndarray, question: str) -> Tensor:
    """Embed a question about a picture as the language model reads it: (tokens, dim).

    summary_tokens: (summary tokens, dim) of the picture, which take its place in the chat.
    """
    prompt = encode_prompt(backbone.chat, question, len(summary_tokens))
    ids = torch.tensor([prompt], device=backbone.device)
    tokens = torch.from_numpy(summary_tokens).to(backbone.device)
    return backbone.embed_chat(ids, tokens[None])[0].cpu()


def completion_request(model_name: str, embeds: Tensor, max_new_tokens: int) -> dict[str, Any]:
    """Return a greedy request to `/v1/completions` of a vLLM server; model_name: as served."""
    stream = io.BytesIO()
    torch.save(embeds.clone(), stream)  # a view would be saved with all it is a view of
    return {
        "model": model_name,
        "prompt_embeds": base64.b64encode(stream.getvalue()).decode(),
        "max_tokens": max_new_tokens,
        "temperature": 0.0,
    }
