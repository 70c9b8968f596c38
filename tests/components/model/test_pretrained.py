"""Faults that transformers only reports stop every loader; no code of a folder is run."""

import ast
import json
import logging
import os
import pty
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.model.loading import check_base_model, load_backbone, load_without_weights
from tests.components.model.families import FAMILIES, save_family
from tests.forked import exit_code_of

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 13\n"
UP_PROJ = "layers.1.mlp.up_proj.weight"


def load(folder: Path) -> Any:
    return load_backbone(str(folder), None, torch.float32, "sdpa", pad_to_square=False)


def check(folder: Path) -> None:
    check_base_model(str(folder), None)


def up_proj(tensors: dict[str, torch.Tensor]) -> str:
    """The name of one weight of the language model; towers have none of it."""
    return next(name for name in sorted(tensors) if name.endswith(UP_PROJ))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor], str], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors, up_proj(tensors))
    save_file(tensors, folder / WEIGHTS)


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def shard(folder: Path) -> dict[str, str]:
    """Cut the weights into two files with an index; returns what it says."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    places = {name: FIRST if number < 9 else SECOND for number, name in enumerate(names)}
    for file in (FIRST, SECOND):
        save_file({name: tensors[name] for name in names if places[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return places


def misplace(folder: Path, file: str) -> None:
    places = shard(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": places | {sorted(places)[0]: file}}))


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


def to_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere")


@pytest.fixture
def folder(llava_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(llava_folder, tmp_path / "model")


WEIGHT_FAULTS: dict[str, tuple[Callable[[dict[str, torch.Tensor], str], object], str]] = {
    "missing": (lambda t, name: t.pop(name), rf"1 missing, and would be random \(\S*{UP_PROJ}\)"),
    "many": (
        lambda t, name: [t.pop(other) for other in sorted(t) if ".mlp." in other],
        r"\d+ missing, and would be random \(\S+, \S+, \S+ and \d+ others\)",
    ),
    "shape": (
        lambda t, name: t.update({name: t[name][:5].clone()}),
        rf"1 of another shape .*{UP_PROJ} \(5, 32\) for",
    ),
    "unexpected": (
        lambda t, name: t.update({"language_model.model.layers.7.norm.weight": torch.zeros(2)}),
        r"1 not of this model \(\S*layers\.7\.norm\.weight\)",
    ),
    "whole numbers": (
        lambda t, name: t.update({name: t[name].to(torch.int8)}),
        rf"{UP_PROJ} is of type I8",
    ),
    "float8": (
        lambda t, name: t.update({name: t[name].to(torch.float8_e4m3fn)}),
        rf"{UP_PROJ} is of type F8_E4M3",
    ),
}


@pytest.mark.parametrize(("change", "outcome"), WEIGHT_FAULTS.values(), ids=WEIGHT_FAULTS)
def test_weights_that_do_not_fit_stop_every_loader_by_name(
    folder: Path, change: Callable[[dict[str, torch.Tensor], str], object], outcome: str
) -> None:
    change_weights(folder, change)
    for read in (check, load):
        with pytest.raises(ValueError, match=outcome) as error:
            read(folder)
        assert str(folder) in str(error.value)


def test_values_that_are_no_numbers_are_refused(folder: Path) -> None:
    change_weights(folder, lambda tensors, name: tensors[name].view(-1)[3].fill_(float("nan")))
    with pytest.raises(
        ValueError, match=rf"1 weights hold values that are not finite \(\S*{UP_PROJ}\)"
    ):
        load(folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_of_every_family_a_weight_too_few_or_too_many_is_refused(name: str, tmp_path: Path) -> None:
    save_family(name, tmp_path)
    check(tmp_path)
    lost: list[torch.Tensor] = []
    change_weights(tmp_path, lambda tensors, weight: lost.append(tensors.pop(weight)))
    with pytest.raises(ValueError, match=rf"1 missing, and would be random \(\S*{UP_PROJ}\)"):
        check(tmp_path)

    def shorten(config: dict[str, Any]) -> None:
        config["text_config"].pop("layer_types", None)
        config["text_config"]["num_hidden_layers"] = 1

    change_json(tmp_path / "config.json", shorten)
    with pytest.raises(ValueError, match="not of this model"):
        check(tmp_path)


def test_published_layouts_with_the_buffers_of_their_time_are_read(folder: Path) -> None:
    """Names of LLaVA-1.5 on the hub, and what older transformers saved beside weights."""
    expected = load(folder)

    def published(tensors: dict[str, torch.Tensor], name: str) -> None:
        for layer in range(2):
            tensors[f"language_model.model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = (
                torch.ones(4)
            )
        tensors["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(10)[None]

    change_weights(folder, published)
    assert any(name.startswith("language_model.model.") for name in load_file(folder / WEIGHTS))
    loaded = load(folder)
    for name, weight in expected.vlm.state_dict().items():
        assert torch.equal(weight, loaded.vlm.state_dict()[name]), name


def test_tied_weights_are_not_missed(folder: Path) -> None:
    def tie(config: dict[str, Any]) -> None:
        config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True

    change_json(folder / "config.json", tie)
    change_weights(
        folder, lambda tensors, _: tensors.pop(next(name for name in tensors if "lm_head" in name))
    )
    check(folder)
    backbone = load(folder)
    assert torch.equal(backbone.lm_head.weight, backbone.embedding_table)
    change_weights(
        folder,
        lambda tensors, _: tensors.pop(next(name for name in tensors if "embed_tokens" in name)),
    )
    with pytest.raises(ValueError, match="missing, and would be random"):
        load(folder)


FILE_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pointer": (
        lambda f: (f / WEIGHTS).write_text(POINTER),
        r"model\.safetensors: is a pointer of git-lfs",
    ),
    "annex": (
        lambda f: (f / WEIGHTS).write_text("/annex/objects/SHA"),
        r"model\.safetensors: is a pointer of git-ann",
    ),
    "page": (
        lambda f: (f / WEIGHTS).write_text("<!DOCTYPE html><p>404"),
        r"model\.safetensors: is a web page",
    ),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), r"model\.safetensors: is empty"),
    "cut": (lambda f: cut(f / WEIGHTS, 9000), r"model\.safetensors: is cut or no safetensors file"),
    "cut header": (
        lambda f: cut(f / WEIGHTS, 60),
        r"model\.safetensors: is cut or no safetensors file",
    ),
    "link": (lambda f: to_link(f / WEIGHTS), r"model\.safetensors: is a link to nothing"),
    "none": (lambda f: (f / WEIGHTS).unlink(), r"model: holds no weights"),
    "bin": (
        lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"),
        r"pickled weights only \(pytorch_model\.bin\)",
    ),
    "misnamed": (
        lambda f: (f / WEIGHTS).rename(f / "a.safetensors"),
        r"holds a\.safetensors but neither",
    ),
    "no second": (
        lambda f: (shard(f), (f / SECOND).unlink()),
        rf"{SECOND}: is missing, and {INDEX} names it",
    ),
    "cut second": (lambda f: (shard(f), cut(f / SECOND, 900)), rf"{SECOND}: is cut"),
    "swapped": (
        lambda f: misplace(f, SECOND),
        rf"{SECOND}: does not hold \S+ .*, which {INDEX} places there",
    ),
    "outside": (
        lambda f: misplace(f, "../x.safetensors"),
        r"is placed in '\.\./x\.safetensors', which is no file",
    ),
    "no map": (lambda f: (shard(f), (f / INDEX).write_text("{}")), rf"{INDEX}: has no weight_map"),
    "config cut": (lambda f: cut(f / "config.json", 200), r"config\.json: is no whole JSON"),
    "config empty": (lambda f: cut(f / "config.json", 0), r"config\.json: is empty"),
    "config list": (
        lambda f: (f / "config.json").write_text("[1]"),
        r"config\.json: is not a JSON object but list",
    ),
    "config deep": (
        lambda f: (f / "config.json").write_text("[" * 99999),
        r"config\.json: is no whole JSON",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), r"model: holds no config\.json"),
    "tokenizer cut": (
        lambda f: cut(f / "tokenizer.json", 999),
        r"tokenizer\.json: is no whole JSON",
    ),
    "tokenizer pointer": (
        lambda f: (f / "tokenizer.json").write_text(POINTER),
        r"tokenizer\.json: is a pointer",
    ),
    "other tokenizer": (
        lambda f: (f / "tokenizer.json").write_text('{"a": 1}'),
        "its tokenizer cannot be read",
    ),
    "processor cut": (
        lambda f: cut(f / "processor_config.json", 99),
        r"processor_config\.json: is no whole JSON",
    ),
    "no processor": (
        lambda f: (f / "processor_config.json").unlink(),
        "its image processor cannot be read",
    ),
    "generation": (
        lambda f: cut(f / "generation_config.json", 9),
        r"generation_config\.json: is no whole JSON",
    ),
    "template": (
        lambda f: (f / "chat_template.jinja").write_text("{% for %}"),
        "its chat template cannot be read",
    ),
    "mute": (
        lambda f: (f / "chat_template.jinja").write_text("Hello"),
        "does not write the question once",
    ),
    "latin": (
        lambda f: (f / "chat_template.jinja").write_bytes(b"\xff\xe4"),
        r"chat_template\.jinja: is not UTF-8",
    ),
    "again": (
        lambda f: shutil.copy(f / "model.safetensors", f / "z.safetensors"),
        r"z\.safetensors: holds .*so does",
    ),
    "adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), r"model: holds an adapter"),
}
SETTINGS_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "quantised": (
        lambda c: c.update(quantization_config={"quant_method": "awq"}),
        "the weights are quantised",
    ),
    "own file": (
        lambda c: c.update(transformers_weights="x.safetensors"),
        "names a file of weights itself",
    ),
    "other type": (lambda c: c.update(model_type="zzz"), "its model cannot be read: .*zzz"),
    "activation": (
        lambda c: c["text_config"].update(hidden_act="zzz"),
        "its model cannot be read: KeyError 'zzz'",
    ),
    "heads": (
        lambda c: c["text_config"].update(num_attention_heads=7),
        "its model cannot be read: .*not a multiple",
    ),
    "tuples": (lambda c: c["text_config"].update(return_dict=False), "return_dict is false"),
    "attentions": (lambda c: c.update(output_attentions=True), "output_attentions is true"),
    "a million layers": (
        lambda c: c["text_config"].update(num_hidden_layers=10**6),
        "num_hidden_layers is 1000000",
    ),
    "words": (
        lambda c: c["text_config"].update(vocab_size=999),
        "of another shape than config.json says",
    ),
}


@pytest.mark.parametrize(("change", "outcome"), FILE_FAULTS.values(), ids=FILE_FAULTS)
def test_a_file_that_is_not_whole_is_named_before_anything_is_loaded(
    folder: Path, change: Callable[[Path], object], outcome: str
) -> None:
    change(folder)
    for read in (check, load):
        with pytest.raises(ValueError, match=outcome) as error:
            read(folder)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("change", "outcome"), SETTINGS_FAULTS.values(), ids=SETTINGS_FAULTS)
def test_settings_of_another_model_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], outcome: str
) -> None:
    change_json(folder / "config.json", change)
    for read in (check, load):
        with pytest.raises(ValueError, match=outcome):
            read(folder)


def test_two_files_of_weights_are_read_as_one(folder: Path) -> None:
    expected = load(folder).vlm.state_dict()
    shard(folder)
    loaded = load(folder).vlm.state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in expected.items())


def test_loading_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str], caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        load(folder)
        change_weights(folder, lambda tensors, name: tensors.pop(name))
        with pytest.raises(ValueError, match="missing"):
            load(folder)
    assert capfd.readouterr() == ("", "")
    assert "LOAD REPORT" not in caplog.text


TRAP = "open({marker!r}, 'w').close()\nclass Trap:\n    pass\n"
MAPS = {
    "config.json": {"AutoConfig": "trap.Trap", "AutoModelForImageTextToText": "trap.Trap"},
    "tokenizer_config.json": {"AutoTokenizer": ["trap.Trap", "trap.Trap"]},
    "processor_config.json": {"AutoProcessor": "trap.Trap", "AutoImageProcessor": "trap.Trap"},
}
UNKNOWN: dict[str, dict[str, Any]] = {  # classes that only the trap has
    "config.json": {"model_type": "trap"},
    "tokenizer_config.json": {"tokenizer_class": "TrapTokenizer"},
    "processor_config.json": {
        "processor_class": "Trap",
        "image_processor": {"image_processor_type": "Trap"},
    },
}


def set_trap(folder: Path, changes: dict[str, dict[str, Any]]) -> Path:
    """Code in a model's folder that leaves a file when it runs; returns that file."""
    marker = folder.parent / "was-run"
    (folder / "trap.py").write_text(TRAP.format(marker=str(marker)))
    for name, auto_map in MAPS.items():
        change_json(
            folder / name, lambda content, auto_map=auto_map: content.update(auto_map=auto_map)
        )
    for name, change in changes.items():
        change_json(folder / name, lambda content, change=change: content.update(change))
    return marker


def load_at_a_terminal(folder: Path, out: Path, errors: Path) -> None:
    """Load a model where every question is answered with yes; print what came of it."""
    ours, theirs = pty.openpty()
    os.write(ours, b"y\ny\ny\ny\n")
    os.dup2(theirs, 0)
    with open(0) as sys.stdin, out.open("w") as sys.stdout, errors.open("w") as sys.stderr:
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stderr.fileno(), 2)
        assert sys.stdin.isatty()
        try:
            load_backbone(str(folder), None, torch.float32, "sdpa", False)
        except ValueError as error:
            print("refused:", error)
        else:
            print("loaded")
        sys.stdout.flush()
        os._exit(0)  # nothing of pytest's streams, which are gone


@pytest.mark.parametrize("file", [None, *UNKNOWN])
def test_nobody_at_a_terminal_is_asked_to_run_code(folder: Path, file: str | None) -> None:
    """A terminal that says yes to everything; classes of transformers are used, others refused."""
    marker = set_trap(folder, {} if file is None else {file: UNKNOWN[file]})
    out, errors = (folder.parent / name for name in ("out", "errors"))
    assert exit_code_of(load_at_a_terminal, folder, out, errors) == 0, errors.read_text()
    assert not marker.exists()
    said = out.read_text()
    assert "y/N" not in said + errors.read_text()
    is_loaded = file in (None, "tokenizer_config.json")
    assert said.startswith("loaded" if is_loaded else "refused: "), said


def test_pictures_are_prepared_without_code_too(folder: Path) -> None:
    marker = set_trap(folder, {})
    load_without_weights(str(folder), None, pad_to_square=False)
    assert not marker.exists()


def test_every_call_says_that_no_code_is_run() -> None:
    silent = []
    for path in sorted([*Path("components").rglob("*.py"), *Path("flows").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                is_loader = node.func.attr in ("from_pretrained", "from_config")
                says = any(
                    isinstance(word.value, ast.Name) and word.value.id == "NO_CODE"
                    for word in node.keywords
                )
                if is_loader and not says:
                    silent.append(f"{path}:{node.lineno}")
    assert silent == []
