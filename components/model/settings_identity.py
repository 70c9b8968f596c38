"""The identity of a model beside its weights: settings, tokenizer and chat template.

Taken from the files as they are, so that no release of a library changes it; what the files say
twice, or only of themselves, is left out
(docs/decisions/0032-the-identity-of-a-base-is-in-its-files.md).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.model.model_files import CONFIG_FILE, read_json, read_text

Tree = dict[str, Any]

# Keys that say where a file comes from, how it was stored, or how training started: at any depth.
OF_THE_FILE = {
    "transformers_version",
    "_name_or_path",
    "name_or_path",
    "_commit_hash",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "use_cache",
    "torchscript",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "attn_implementation",
    "id2label",
    "label2id",
    "initializer_range",
    "initializer_factor",
    "processor_class",
    "problem_type",
}
# Of a tokenizer: its class, and how rows are filled up and cut off, which this project does itself.
OF_BATCHES = {
    "padding",
    "truncation",
    "padding_side",
    "truncation_side",
    "model_max_length",
    "backend",
    "is_local",
}
# Of an image processor: its class, of which only the computation with Pillow is used.
OF_PROCESSORS = {
    "image_processor_type",
    "feature_extractor_type",
    "backend",
    "_valid_processor_keys",
}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Read where there is no tokenizer.json.
WORDS = ("tokenizer.model", "vocab.json", "merges.txt", "vocab.txt")


def settings_sha256(folder: Path) -> str:
    """Hash a model's settings in canonical JSON (SHA-256).

    Order of keys and layout of files do not count. Raises ValueError when a file cannot be read.
    """
    return hashlib.sha256(json.dumps(settings_of(folder), sort_keys=True).encode()).hexdigest()


def settings_of(folder: Path) -> Tree:
    """Read the settings that decide answers from the files that transformers reads."""
    generation = json_of(folder / "generation_config.json")

    # Newer releases keep the settings of the image processor in the file of the processor.
    old = json_of(folder / "preprocessor_config.json")
    new = json_of(folder / "processor_config.json").get("image_processor", {})
    left_out = OF_THE_FILE | OF_PROCESSORS

    return {
        "config": canonical(read_json(folder / CONFIG_FILE), OF_THE_FILE),
        "image_processor": [canonical(old, left_out), canonical(new, left_out)],
        "end_tokens": generation.get("eos_token_id"),  # the only settings read of that file
        "chat_template": chat_template_of(folder),
        "tokenizers": [tokenizer_of(folder), tokenizer_of(folder / "qformer_tokenizer")],
    }


def tokenizer_of(folder: Path) -> Tree:
    """Read the parts of a tokenizer that decide its ids, by file."""
    left_out = OF_THE_FILE | OF_BATCHES
    parts = {name: canonical(json_of(folder / name), left_out) for name in TOKENIZER_FILES}
    parts["tokenizer_config.json"].pop("chat_template", None)  # has a place of its own

    # tokenizer.json says all that the older files say.
    if not parts["tokenizer.json"]:
        for name in WORDS:
            parts[name] = bytes_sha256(folder / name)
    return parts


def chat_template_of(folder: Path) -> Any:
    """Read the chat template, wherever it is; None: the family's, part of this project."""
    path = folder / "chat_template.jinja"
    if path.exists():
        return read_text(path)
    own = json_of(folder / "tokenizer_config.json").get("chat_template")
    return own or json_of(folder / "chat_template.json").get("chat_template")


def canonical(value: Any, left_out: set[str]) -> Any:
    """Return a JSON value without some keys, at any depth, with whole floats as integers."""
    if isinstance(value, Mapping):
        kept = {}
        for key, inner in value.items():
            if key not in left_out:
                kept[key] = canonical(inner, left_out)
        return kept

    if isinstance(value, list):
        return [canonical(inner, left_out) for inner in value]

    # JSON writers differ in whether 1.0 keeps its point.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def json_of(path: Path) -> Tree:
    """Read the object in a file; an empty one if there is no such file."""
    return read_json(path) if path.exists() else {}


def bytes_sha256(path: Path) -> str | None:
    """Hash a file; None if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
