"""Checks of a model's files before a library reads them: complete, plain, and of this model.

Downloads stop half way, `git clone` leaves pointers, a shard is forgotten. Libraries report this
without the file's name, and replace some of what is missing by random numbers.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
CONFIG_FILE = "config.json"
JSON_FILES = (  # that transformers or this project reads
    CONFIG_FILE,
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    INDEX_FILE,
)
TEXT_FILES = ("chat_template.jinja", "merges.txt", "vocab.txt")
SENTENCEPIECE = "tokenizer.model"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
FETCH = "fetch it again, or restore it"
HEAD = 128  # bytes in which a file that is not the wanted one shows itself
POINTER = "is a pointer of {}, not the file itself; run `{}` there"
NOT_THE_FILE = {  # first bytes, and the fault that they show
    b"version https://git-lfs": POINTER.format("git-lfs", "git lfs pull"),
    b"/annex/objects/": POINTER.format("git-annex", "git annex get"),
    b"<!doctype html": f"is a web page; {FETCH}",
    b"<html": f"is a web page; {FETCH}",
}
# Settings that change what a model returns; a checkpoint has no business with them.
RETURNS = {"return_dict": True, "output_attentions": False}
# Numbers of layers. Each layer has weights; building any number takes hours.
LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "depth")
FLOATS = ("F64", "F32", "F16", "BF16")  # number types of weights, as safetensors calls them
# Tensors that count places and hold nothing learned; older libraries wrote them, also as integers.
COUNTERS = re.compile(r"(^|\.)(position_ids|inv_freq|num_batches_tracked|masked_bias)$")


def check_model_folder(folder: Path) -> None:
    """Check the files of a model that will be read.

    Raises ValueError, naming the file, when one is cut, a pointer, missing, or another model's.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder; say where the model is")
    check_settings_files(folder)

    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{folder}: holds an adapter (adapter_config.json) beside or in place of a model, "
            "which would be loaded with it; move the adapter elsewhere"
        )

    # Weights that this project would not load as they are meant.
    config = read_json(folder / CONFIG_FILE)
    if config.get("quantization_config"):
        raise ValueError(
            f"{folder / CONFIG_FILE}: the weights are quantised (quantization_config); "
            "take the checkpoint in bfloat16, float16 or float32"
        )
    if config.get("transformers_weights"):
        raise ValueError(
            f"{folder / CONFIG_FILE}: names a file of weights itself (transformers_weights); "
            f"rename that file to {WEIGHTS_FILE} and remove the key"
        )

    # Settings with which the model would return something else, or never be built.
    num_tensors = check_weights(folder)
    for key, value in _settings_in(config):
        if key in RETURNS and value is not RETURNS[key]:
            raise ValueError(
                f"{folder / CONFIG_FILE}: {key} is {json.dumps(value)}, so that the model returns "
                "something else; remove the key"
            )
        if key in LAYERS and isinstance(value, int) and value > num_tensors:
            raise ValueError(
                f"{folder / CONFIG_FILE}: {key} is {value}, and the weights are {num_tensors} "
                "tensors; correct it"
            )


def _settings_in(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a configuration and of the configurations inside it."""
    for key, value in config.items():
        yield key, value
        if isinstance(value, dict):
            yield from _settings_in(value)


def check_settings_files(folder: Path) -> None:
    """Check the files of settings and tokenizer by their names. Raises ValueError."""
    if not (folder / CONFIG_FILE).exists():
        raise ValueError(
            f"{folder}: holds no {CONFIG_FILE}; "
            "is it a model's folder, and is the download complete?"
        )

    # InstructBLIP keeps a second tokenizer in a folder of its own.
    for part in (folder, folder / "qformer_tokenizer"):
        for name in JSON_FILES:
            if is_listed(part / name):
                read_json(part / name)
        for name in TEXT_FILES:
            if is_listed(part / name):
                read_text(part / name)

        if is_listed(part / SENTENCEPIECE):
            check_plain(part / SENTENCEPIECE)


def check_weights(folder: Path) -> int:
    """Check the safetensors that will be loaded, and count their tensors.

    Raises ValueError unless the files are complete and as their index says, and no tensor is in
    two files.
    """
    # Each tensor of the files that are loaded: in its place, and of a type that weights have.
    wanted = weight_files(folder)
    places: dict[str, Path] = {}
    for path, listed in wanted.items():
        types = tensor_types(path)
        if away := sorted(listed - types.keys()):
            raise ValueError(
                f"{path}: does not hold {away[0]} (and {len(away) - 1} others), "
                f"which {INDEX_FILE} places there; fetch the model again"
            )

        for name, kind in types.items():
            if kind not in FLOATS and not COUNTERS.search(name):
                raise ValueError(
                    f"{path}: {name} is of type {kind}; "
                    f"weights have to be one of {', '.join(FLOATS)}"
                )
            if name in places:
                raise ValueError(
                    f"{path}: holds {name}, and so does {places[name].name}; remove the wrong one"
                )
            places[name] = path

    # Files that are not loaded: the same tensor there means that one of the two is the wrong one.
    for path in sorted(set(folder.glob("*.safetensors")) - wanted.keys()):
        if twice := sorted(places.keys() & tensor_types(path).keys()):
            raise ValueError(
                f"{path}: holds {twice[0]}, and so does {places[twice[0]].name}; "
                "remove the wrong one"
            )
    return len(places)


def weight_files(folder: Path) -> dict[Path, set[str]]:
    """List the files that transformers loads, with the tensors that an index places in each.

    Raises ValueError when there is none, or one is missing.
    """
    if is_listed(folder / WEIGHTS_FILE):
        return {folder / WEIGHTS_FILE: set()}
    if not is_listed(folder / INDEX_FILE):
        raise ValueError(no_weights(folder))

    # An index may name files beside it only: nothing outside the folder is opened.
    index = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise ValueError(f"{folder / INDEX_FILE}: has no weight_map; {FETCH}")

    files: dict[Path, set[str]] = {}
    for tensor, name in index.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(
                f"{folder / INDEX_FILE}: {tensor} is placed in {name!r}, which is no file beside it"
            )
        files.setdefault(folder / name, set()).add(tensor)

    # A download may have stopped between two files.
    for path in sorted(files):
        if not is_listed(path):
            raise ValueError(
                f"{path}: is missing, and {INDEX_FILE} names it; fetch the rest of the model"
            )
    return files


def no_weights(folder: Path) -> str:
    """Return the message about a folder without safetensors that could be loaded."""
    others = sorted(folder.glob("*.safetensors"))
    if others:
        return (
            f"{folder}: holds {others[0].name} but neither {WEIGHTS_FILE} nor {INDEX_FILE}; "
            "fetch the model again"
        )

    # Opening a pickle runs the code in it.
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        return (
            f"{folder}: holds pickled weights only ({pickles[0]}), which are never opened; "
            "take a version with safetensors, or convert it in a place that you can lose"
        )
    return f"{folder}: holds no weights (*.safetensors); is the download complete?"


def is_listed(path: Path) -> bool:
    """Return whether something has that name, be it a link to nothing."""
    return path.exists() or path.is_symlink()


def check_plain(path: Path) -> None:
    """Check that a file is plain and not empty, and no pointer or error page in its place.

    Raises ValueError.
    """
    if not path.exists():
        state = "is a link to nothing" if path.is_symlink() else "is missing"
        raise ValueError(f"{path}: {state}; {FETCH}")
    if not path.is_file():  # says no to pipes and devices without opening them
        raise ValueError(f"{path}: is not a plain file; {FETCH}")

    # Servers and git leave something readable where the file should be.
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    if not head:
        raise ValueError(f"{path}: is empty; {FETCH}")
    for beginning, outcome in NOT_THE_FILE.items():
        if head.lstrip().lower().startswith(beginning):
            raise ValueError(f"{path}: {outcome}")


def read_text(path: Path) -> str:
    """Read a text file. Raises ValueError, naming it, when it is none."""
    check_plain(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 ({error}); {FETCH}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read an object from a JSON file. Raises ValueError, naming it, for anything else."""
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no whole JSON ({error}); {FETCH}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is not a JSON object but {type(content).__name__}; {FETCH}")
    return content


@contextmanager
def whole_safetensors(path: Path) -> Iterator[None]:
    """Turn errors about a safetensors file that is cut or none into a ValueError with its name."""
    check_plain(path)
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{path}: is cut or no safetensors file ({error}); {FETCH}") from None


def tensor_types(path: Path) -> dict[str, str]:
    """Read the number type of each tensor from a safetensors file's header. Raises ValueError."""
    with whole_safetensors(path), safe_open(path, "pt") as tensors:
        names = tensors.keys()
        return {name: tensors.get_slice(name).get_dtype() for name in names}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises ValueError, naming it, when it is missing, cut or none.
    """
    with whole_safetensors(path):
        return load_file(path)


def some_of(names: list[str], shown: int = 3) -> str:
    """List the first few of some names, and say how many others there are."""
    others = f" and {len(names) - shown} others" if len(names) > shown else ""
    return ", ".join(names[:shown]) + others
