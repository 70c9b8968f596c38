"""Base models from a folder or the hub: family, weights, tokenizer and image processor.

Weights come from safetensors only, all of them, and no code is ever fetched or run (`pretrained`).
"""

from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForImageTextToText

from components.model.backbone import Backbone, Source
from components.model.chat import ChatFormat, render
from components.model.families import FAMILIES
from components.model.model_files import CONFIG_FILE, check_settings_files, read_json
from components.model.pretrained import (
    NO_CODE,
    load_image_processor,
    load_pretrained,
    load_tokenizer,
    outline_of,
    read_model_config,
    reason_of,
    transformers_errors,
)
from components.params import Params

# Architectures of checkpoints in LLaVA's own format.
OFFICIAL_LLAVA = ("LlavaLlamaForCausalLM", "LlavaMistralForCausalLM", "LlavaQwenForCausalLM")
# Of older processors; the tokenizer reads chat_template.jinja itself.
CHAT_FILE = "chat_template.json"


class BackboneParams(Params):
    """How to load the base model; flows nest it and hand its fields to `load_backbone`."""

    revision: str | None  # commit, tag or branch on the hub; null for a folder
    dtype: Literal["float32", "bfloat16"]  # of the frozen weights; what is trained stays float32
    attention: Literal["sdpa", "eager", "flash_attention_2"]
    # pad pictures to a square with the processor's mean colour (LLaVA-1.5) instead of cropping
    pad_to_square: bool

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as PyTorch's object."""
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.dtype]


def load_backbone(
    model: str, revision: str | None, dtype: torch.dtype, attention: str, pad_to_square: bool
) -> Backbone:
    """Load a base model from a folder or by its hub id.

    Raises ValueError for an architecture of no known family, and for a folder that does not hold
    the whole model.
    """
    source = find_source(model, revision)
    family = family_of(model, source.folder)
    vlm = load_pretrained(
        AutoModelForImageTextToText, source.folder, dtype=dtype, attn_implementation=attention
    )
    return _build_backbone(vlm, family, source, pad_to_square)


def check_base_model(model: str, revision: str | None) -> None:
    """Check a base model before any weight is read.

    Raises ValueError when it is not whole, or of no known family.
    """
    source = find_source(model, revision)
    family = family_of(model, source.folder)
    vlm = outline_of(AutoModelForImageTextToText, source.folder)
    _build_backbone(vlm, family, source, pad_to_square=False)


def load_without_weights(model: str, revision: str | None, pad_to_square: bool) -> Backbone:
    """Load a base model whose tensors hold nothing (device meta).

    Enough to prepare pictures, on machines without a GPU.
    """
    source = find_source(model, revision)
    family = family_of(model, source.folder)
    config = read_model_config(source.folder)

    # Eager attention asks no library for kernels.
    with torch.device("meta"), transformers_errors(source.folder, "config.json"):
        vlm = AutoModelForImageTextToText.from_config(
            config, attn_implementation="eager", **NO_CODE
        )
    return _build_backbone(vlm, family, source, pad_to_square)


def find_source(model: str, revision: str | None) -> Source:
    """Find the files of a base model: in its folder, or downloaded from the hub."""
    if Path(model).is_dir():
        return Source(Path(model), Path(model).resolve().name, revision)
    return Source(download(model, revision), model, revision)


def family_of(model: str, folder: Path) -> type[Backbone]:
    """Return the family that takes the architecture in config.json. Raises ValueError if none."""
    check_settings_files(folder)
    architectures = architectures_of(folder)
    for family in FAMILIES:
        if set(architectures) & set(family.architectures):
            return family

    # The checkpoints that people find first, and whose converted twins are supported.
    if set(architectures) & set(OFFICIAL_LLAVA):
        raise ValueError(
            f"{model}: a checkpoint in LLaVA's own format ({architectures[0]}); take the one that "
            "was converted for transformers (llava-hf/llava-1.5-7b-hf, llava-hf/llava-v1.6-…), or "
            "convert it with the script convert_llava_weights_to_hf.py of the transformers "
            "repository"
        )
    known: list[str] = []
    for family in FAMILIES:
        known += family.architectures
    raise ValueError(
        f"{model} is a {' / '.join(architectures) or 'nameless class'}; "
        f"supported: {', '.join(known)}. "
        "For another one add a file to components/model/families (docs/models.md)"
    )


def _build_backbone(
    vlm: Any, family: type[Backbone], source: Source, pad_to_square: bool
) -> Backbone:
    """Put image processor and chat beside a model. Raises ValueError for one of another class."""
    if type(vlm).__name__ not in family.architectures:
        raise ValueError(
            f"{source.folder / CONFIG_FILE}: architectures names a {family.architectures[0]}, but "
            f"model_type makes a {type(vlm).__name__} of it; fetch the model again"
        )

    image_processor = load_image_processor(source.folder)
    chat = load_chat(source.name, source.folder, family, vlm.config)
    return family(vlm, chat, image_processor, source, pad_to_square)


def architectures_of(folder: Path) -> list[str]:
    """Return the classes that config.json names. Raises ValueError when it cannot be read."""
    named = read_json(folder / CONFIG_FILE).get("architectures") or []
    return [str(name) for name in named] if isinstance(named, list) else [str(named)]


def load_chat(model: str, folder: Path, family: type[Backbone], config: Any) -> ChatFormat:
    """Load the tokenizer with a chat template.

    The template is the tokenizer's own, that of an older processor, or the family's. Raises
    ValueError for a template that cannot be used, and for the tokenizer of another model.
    """
    # Older processors keep the template in a file of their own.
    tokenizer = load_tokenizer(folder)
    if not tokenizer.chat_template and (folder / CHAT_FILE).is_file():
        tokenizer.chat_template = read_json(folder / CHAT_FILE).get("chat_template")
    tokenizer.chat_template = tokenizer.chat_template or family.markup.chat_template

    # With another token the placeholders of a chat would be read as text.
    image_token = family.markup.image_token
    if tokenizer.convert_tokens_to_ids(image_token) != config.image_token_id:
        raise ValueError(
            f"{model}: the tokenizer's {image_token} is not the model's image token; "
            "use the model's own tokenizer"
        )

    chat = ChatFormat(tokenizer, family.markup)
    check_chat_template(folder, chat)
    return chat


def check_chat_template(folder: Path, chat: ChatFormat) -> None:
    """Check that a template can be rendered and writes the question once. Raises ValueError."""
    with transformers_errors(folder, "chat template"):
        pieces = render(chat, [{"role": "user", "content": "a"}], 0, add_generation_prompt=True)

    authors = [piece.author for piece in pieces]
    if authors.count("user") != 1:
        raise ValueError(
            f"{folder}: its chat template does not write the question once; "
            "take the template that the model was published with (chat_template.jinja)"
        )


def download(model: str, revision: str | None) -> Path:
    """Fetch a model from the hub, without anything that could hold code.

    Raises ValueError when it cannot be had.
    """
    patterns = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "qformer_tokenizer/*"]
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except Exception as error:  # hub, network and disk have classes of their own
        raise ValueError(
            f"{model}: is no folder, and the hub does not give it: {reason_of(error)}; "
            "say where the folder is, or name a model of the hub as owner/name"
        ) from error
