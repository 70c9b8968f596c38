"""A trained compressor in a folder: all that training adds to a base model, and which base it is.

    compression/  generation/     adapters in PEFT's format, each usable with
                                  `PeftModel.from_pretrained`; or shared/
    summary_queries.safetensors   the queries, the logarithm of the logit scale and, if learned, the
                                  prompt; a compared method's tensors are in a file of its name
    trained_base.safetensors      trained weights of the base: the connector, the decoder without
                                  adapters
    config.json                   the base model and its hash, all settings, versions
    README.md                     the model card

Saving the same model twice gives the same bytes. Loading refuses a base model, a preprocessing or a
set of tensors other than the one that was trained, and says what it found and what it expected.
"""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from components.files.permissions import write_by_umask
from components.methods.catalogue import build_method, method_class
from components.methods.method import Method, Preparer
from components.methods.method_settings import WITH_QUERIES, ChosenMethod, CompressorParams
from components.model.backbone import Preprocessing
from components.model.loading import load_backbone, load_without_weights
from components.model.model_files import read_json, read_tensors, some_of
from components.params import Params

ADAPTER_FILE = "adapter_model.safetensors"  # PEFT's name
QUERIES_FILE = "summary_queries.safetensors"
BASE_FILE = "trained_base.safetensors"
CONFIG_FILE = "config.json"
ANSWERS = "The language model answers questions from them."
LIBRARIES = ("peft", "torch", "transformers")

CARD = """\
---
base_model: {config.base_model}
library_name: peft
pipeline_tag: image-text-to-text
tags: [fwd2bot, visual-token-compression, image-text-retrieval]
---
# A compressor for {config.base_model}

{config.abilities}

```python
model = load_compressor(folder, base_model, device, dtype)  # components/methods/checkpoint.py
summary_tokens = model.compress_pictures(model.prepare(pictures))
```
{usage}Base weights, SHA-256: `{config.base_weights_sha256}`.

| metric | value |
|---|---|
{table}
"""


class CompressorConfig(Params):
    """The contents of config.json."""

    format_version: Literal[2]
    base_model: str  # hub id, or the name of the folder
    base_revision: str | None
    base_weights_sha256: str
    settings_sha256: dict[str, str]  # of what is beside the weights, by whose it is
    dim: int  # of a summary token
    method: ChosenMethod
    compressor: CompressorParams
    pad_to_square: bool  # of the base model's pictures; those of the method may be others
    preprocessing: Preprocessing  # of the method's pictures
    versions: dict[str, str]  # library -> version that trained it

    @property
    def abilities(self) -> str:
        """The abilities of the compressor, for the model card."""
        name, count = self.method.name, self.compressor.num_summary_tokens
        vectors = f"{count} vectors of {self.dim} numbers"

        # a method without an ability has a sentence on why
        stored = method_class(name).why_not_stored or "They are stored and searched."
        answers = method_class(name).why_no_answers or ANSWERS
        return f"It makes {vectors} of a picture (docs/methods.md, {name}). {stored} {answers}"

    @property
    def own_file(self) -> str:
        """The file of the weights that are neither an adapter's nor the base model's."""
        name = self.method.name
        return QUERIES_FILE if name in WITH_QUERIES else f"{name}.safetensors"


def save_compressor(model: Method, folder: Path, card: Mapping[str, float | str]) -> None:
    """Write the trained parts into a folder; `card` has the metrics for the model card's table."""
    config = compressor_config(model)
    folder.mkdir(parents=True, exist_ok=True)

    # adapters, as PEFT loads them
    for adapter in model.adapters.names:
        settings = model.adapters.model.peft_config[adapter]
        settings.base_model_name_or_path = config.base_model
        settings.revision = config.base_revision
        settings.inference_mode = True
        settings.save_pretrained(str(folder / adapter))
        save_tensors(adapter_tensors(model, adapter), folder / adapter / ADAPTER_FILE)

    # the rest of the weights
    if own := model.own_tensors():
        save_tensors(own, folder / config.own_file)
    if base := base_tensors(model):
        save_tensors(base, folder / BASE_FILE)
    (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")

    # the model card
    usage = ""
    for name in model.adapters.names:
        usage += f'- the adapter {name} alone: `PeftModel.from_pretrained(base_model, "{name}")`\n'
    table = "\n".join(f"| {name} | {value} |" for name, value in card.items())
    text = CARD.format(config=config, usage=usage, table=table)
    (folder / "README.md").write_text(text, encoding="utf-8")


def load_compressor(
    folder: Path,
    base: str,
    device: torch.device,
    dtype: torch.dtype,
    num_summary_tokens: int | None = None,
) -> Method:
    """Load a compressor on its base model (folder or hub id), ready for inference.

    `dtype` is that of the base weights; `num_summary_tokens` keeps the first queries only, all if
    not given. Raises ValueError if anything is not what the compressor was trained with.
    """
    # the base model and the method around it must be those of training
    config = load_config(folder)
    backbone = load_backbone(base, config.base_revision, dtype, "sdpa", config.pad_to_square)
    what = f"base model {base}: SHA-256 of the weights"
    expect(what, backbone.weights_sha256, config.base_weights_sha256)
    model = build_method(backbone, config.compressor, config.method, seed=0)
    expect(f"base model {base}: preprocessing", model.preprocessing, config.preprocessing)
    expect_settings(base, model.settings_sha256, config)

    # put in what was trained
    for adapter in model.adapters.names:
        file = folder / adapter / ADAPTER_FILE
        tensors = load_tensors(file, adapter_tensors(model, adapter))
        report: Any = set_peft_model_state_dict(model.adapters.model, tensors, adapter_name=adapter)
        expect(f"{file}: weights that are not the model's", report.unexpected_keys, [])
    if own := model.own_tensors():
        load_into(model, folder / config.own_file, own)
    if trained := base_tensors(model):
        load_into(model, folder / BASE_FILE, trained)

    if num_summary_tokens is not None:
        model.keep_first(num_summary_tokens)
    return model.to(device).eval()


def load_preparer(folder: Path, base: str) -> Preparer:
    """Load what prepares pictures for a compressor, without weights. Raises ValueError as above."""
    config = load_config(folder)
    backbone = load_without_weights(base, config.base_revision, config.pad_to_square)
    preparer = method_class(config.method.name).preparer(backbone, config.method)
    expect(f"base model {base}: preprocessing", preparer.preprocessing, config.preprocessing)
    return preparer


def check_trained_files(folder: Path, config: CompressorConfig) -> None:
    """Raise ValueError when a file that a compressor with queries has is missing.

    Other methods may have none.
    """
    if config.method.name not in WITH_QUERIES:
        return

    # without adapters the decoder itself was trained
    adapters = [f"{name}/{ADAPTER_FILE}" for name in config.compressor.adapters.names]
    for name in (QUERIES_FILE, *(adapters or [BASE_FILE])):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder / name}: is missing; fetch the whole compressor, or train one"
            )


def load_config(folder: Path) -> CompressorConfig:
    """Read the configuration of a saved compressor. Raises ValueError, naming the file."""
    path = folder / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file; is this a compressor?")

    try:
        # by way of JSON, whose lists become tuples
        return CompressorConfig.model_validate_json(json.dumps(read_json(path)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{path}: {where}: {first['msg']}; it was written by another version, or changed by "
            "hand: take the version that wrote it, or train again"
        ) from None


def compressor_config(model: Method) -> CompressorConfig:
    """Describe a model as its config.json does."""
    return CompressorConfig(
        format_version=2,
        method=model.chosen,
        base_model=model.backbone.source.name,
        base_revision=model.backbone.source.revision,
        base_weights_sha256=model.backbone.weights_sha256,
        settings_sha256=model.settings_sha256,
        dim=model.dim,
        compressor=model.params,
        pad_to_square=model.backbone.pad_to_square,
        preprocessing=model.preprocessing,
        versions={library: version(library) for library in LIBRARIES},
    )


def adapter_tensors(model: Method, adapter: str) -> dict[str, Tensor]:
    """Return the LoRA weights of one adapter, under PEFT's names; embeddings are left out."""
    return get_peft_model_state_dict(
        model.adapters.model, adapter_name=adapter, save_embedding_layers=False
    )


def base_tensors(model: Method) -> dict[str, Tensor]:
    """Return the trained weights of the base model by their names; as a rule there are none."""
    tensors: dict[str, Tensor] = {}
    for name, weight in model.backbone.named_parameters(prefix="backbone"):
        if weight.requires_grad and ".lora_" not in name:
            tensors[name] = weight.detach()
    return tensors


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write safetensors that others may read."""
    stored = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write_by_umask(path, lambda place: save_file(stored, place, metadata={"format": "pt"}))


def load_tensors(path: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a safetensors file. Raises ValueError unless its tensors are finite and like `like`."""
    tensors = read_tensors(path)

    # names and shapes: the first that differs stands for all
    differing = []
    for name in sorted(tensors.keys() | like.keys()):
        found, expected = shape_of(tensors, name), shape_of(like, name)
        if found != expected:
            differing.append((name, found, expected))
    if differing:
        name, found, expected = differing[0]
        others = f" (and {len(differing) - 1} more tensors)" if len(differing) > 1 else ""
        expect(f"{path}: shape of {name}{others}", found, expected)

    # values: a NaN would spoil every answer without an error
    odd = []
    for name, tensor in sorted(tensors.items()):
        has_kind = tensor.is_floating_point() == like[name].is_floating_point()
        if not has_kind or not torch.isfinite(tensor).all():
            odd.append(name)
    if odd:
        raise ValueError(
            f"{path}: {len(odd)} tensors hold values that are not finite, or no such numbers as "
            f"the model has ({some_of(odd)}); restore the file, or train again"
        )
    return tensors


def shape_of(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | str:
    """Return the shape of a tensor, or the word "missing"."""
    return tuple(tensors[name].shape) if name in tensors else "missing"


def load_into(model: Method, path: Path, like: Mapping[str, Tensor]) -> None:
    """Load the tensors of a file, shaped like `like`, into a model. Raises ValueError."""
    left = model.load_state_dict(load_tensors(path, like), strict=False).unexpected_keys
    expect(f"{path}: weights that are not the model's", left, [])


def expect_settings(base: str, found: Mapping[str, str], config: CompressorConfig) -> None:
    """Raise ValueError when configuration, tokenizer or template are not those of training."""
    for whose, wanted in config.settings_sha256.items():
        name = f"base model {base}" if whose == "base" else f"{whose} of {config.method.name}"
        what = f"{name}: SHA-256 of config.json, tokenizer, chat template and image processor"
        expect(what, found.get(whose, "missing"), wanted)


def expect(what: str, found: object, expected: object) -> None:
    """Raise ValueError with both values unless they are equal."""
    if found != expected:
        raise ValueError(
            f"{what} is {found}, but the compressor needs {expected}; use the base model it was "
            "trained on"
        )
