"""What training adds to a base model, as a folder that says what it belongs to.

    compression/  generation/      adapters in PEFT's format, each usable with `PeftModel.from_pretrained`; or shared/
    summary_queries.safetensors    the queries, the logarithm of the logit scale and, if learned, the prompt; what a
                                   compared method adds is in a file with the method's name
    trained_base.safetensors       weights of the base that were trained: the connector, the decoder without adapters
    config.json                    the base model and its hash, all settings, versions
    README.md                      the model card

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

from components.files.outputs import write_by_umask
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

{config.says}

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
    def says(self) -> str:
        """What it does, for the model card."""
        kind, count = method_class(self.method.name), self.compressor.num_summary_tokens
        made = f"It makes {count} vectors of {self.dim} numbers of a picture (docs/methods.md, {self.method.name})."
        return " ".join(
            [
                made,
                kind.why_not_stored or "They are stored and searched.",
                kind.why_no_answers or ANSWERS,
            ]
        )

    @property
    def own_file(self) -> str:
        """Where the weights are that are neither an adapter's nor the base model's."""
        return (
            QUERIES_FILE if self.method.name in WITH_QUERIES else f"{self.method.name}.safetensors"
        )


def save_compressor(model: Method, folder: Path, card: Mapping[str, float | str]) -> None:
    """Write the trained parts into a folder; `card` holds the metrics for the model card's table."""
    config = compressor_config(model)
    names = model.adapters.names
    folder.mkdir(parents=True, exist_ok=True)
    for adapter in names:
        settings = model.adapters.model.peft_config[adapter]
        settings.base_model_name_or_path = config.base_model
        settings.revision = config.base_revision
        settings.inference_mode = True
        settings.save_pretrained(str(folder / adapter))
        save_tensors(adapter_tensors(model, adapter), folder / adapter / ADAPTER_FILE)
    if own := model.own_tensors():
        save_tensors(own, folder / config.own_file)
    if base := base_tensors(model):
        save_tensors(base, folder / BASE_FILE)
    (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    usage = "".join(
        f'- the adapter {name} alone: `PeftModel.from_pretrained(base_model, "{name}")`\n'
        for name in names
    )
    table = "\n".join(f"| {name} | {value} |" for name, value in card.items())
    (folder / "README.md").write_text(
        CARD.format(config=config, usage=usage, table=table), encoding="utf-8"
    )


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
    config = load_config(folder)
    backbone = load_backbone(base, config.base_revision, dtype, "sdpa", config.pad_to_square)
    expect(
        f"base model {base}: SHA-256 of the weights",
        backbone.weights_sha256,
        config.base_weights_sha256,
    )
    model = build_method(backbone, config.compressor, config.method, seed=0)
    expect(f"base model {base}: preprocessing", model.preprocessing, config.preprocessing)
    expect_settings(base, model.settings_sha256, config)
    for adapter in model.adapters.names:
        tensors = load_tensors(folder / adapter / ADAPTER_FILE, adapter_tensors(model, adapter))
        report: Any = set_peft_model_state_dict(model.adapters.model, tensors, adapter_name=adapter)
        expect(
            f"{folder / adapter / ADAPTER_FILE}: weights that are not the model's",
            report.unexpected_keys,
            [],
        )
    if own := model.own_tensors():
        put_in(model, folder / config.own_file, own)
    if trained := base_tensors(model):
        put_in(model, folder / BASE_FILE, trained)
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
    """Raises ValueError when a file that every compressor of its kind has is missing; others may have none."""
    if config.method.name not in WITH_QUERIES:
        return
    adapters = [f"{name}/{ADAPTER_FILE}" for name in config.compressor.adapters.names] or [
        BASE_FILE
    ]
    for name in (QUERIES_FILE, *adapters):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder / name}: is missing; fetch the whole compressor, or train one"
            )


def load_config(folder: Path) -> CompressorConfig:
    """What a saved compressor says of itself. Raises ValueError, naming the file, when it cannot be read."""
    path = folder / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file; is this a compressor?")
    try:
        return CompressorConfig.model_validate_json(json.dumps(read_json(path)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{path}: {where}: {first['msg']}; it was written by another version, or changed by hand: take the "
            "version that wrote it, or train again"
        ) from None


def compressor_config(model: Method) -> CompressorConfig:
    """Everything that says what a model is."""
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
    """The LoRA weights of one adapter, under PEFT's names; embeddings are not among them."""
    return get_peft_model_state_dict(
        model.adapters.model, adapter_name=adapter, save_embedding_layers=False
    )


def base_tensors(model: Method) -> dict[str, Tensor]:
    """The weights of the base model that were trained, under the model's own names: none, as a rule."""
    trained = {
        name: p.detach()
        for name, p in model.backbone.named_parameters(prefix="backbone")
        if p.requires_grad
    }
    return {name: tensor for name, tensor in trained.items() if ".lora_" not in name}


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write safetensors that others may read."""
    stored = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write_by_umask(path, lambda place: save_file(stored, place, metadata={"format": "pt"}))


def load_tensors(path: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a safetensors file that must have the names and shapes of `like`, and numbers in it. Raises ValueError."""
    tensors = read_tensors(path)
    found, expected = (
        {name: tuple(t.shape) for name, t in group.items()} for group in (tensors, like)
    )
    differing = sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
    for name in differing[:1]:
        others = f" (and {len(differing) - 1} more tensors)" if len(differing) > 1 else ""
        expect(
            f"{path}: shape of {name}{others}",
            found.get(name, "missing"),
            expected.get(name, "missing"),
        )
    odd = [
        name
        for name, tensor in sorted(tensors.items())
        if tensor.is_floating_point() != like[name].is_floating_point()
        or not torch.isfinite(tensor).all()
    ]
    if odd:
        raise ValueError(
            f"{path}: {len(odd)} tensors hold values that are not finite, or no such numbers as the model has "
            f"({some_of(odd)}); restore the file, or train again"
        )
    return tensors


def put_in(model: Method, path: Path, like: Mapping[str, Tensor]) -> None:
    """Load into a model those of its tensors that a file holds, all of `like`. Raises ValueError."""
    left = model.load_state_dict(load_tensors(path, like), strict=False).unexpected_keys
    expect(f"{path}: weights that are not the model's", left, [])


def expect_settings(base: str, found: Mapping[str, str], config: CompressorConfig) -> None:
    """Raises ValueError when configuration, tokenizer or chat template are not those of training."""
    for whose, wanted in config.settings_sha256.items():
        name = f"base model {base}" if whose == "base" else f"{whose} of {config.method.name}"
        what = f"{name}: SHA-256 of config.json, tokenizer, chat template and image processor"
        expect(what, found.get(whose, "missing"), wanted)


def expect(what: str, found: object, expected: object) -> None:
    """Raise ValueError with both values unless they are equal."""
    if found != expected:
        raise ValueError(
            f"{what} is {found}, but the compressor needs {expected}; use the base model it was trained on"
        )
