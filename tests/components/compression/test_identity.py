"""Identity of a compressor: whatever decides the values of stored tokens is part of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.compression.identity import check_base, provenance_of
from components.methods.checkpoint import CONFIG_FILE
from components.store.provenance import differences
from tests.components.compression.models import write_models


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize(("name", "value"), [("prompt", "What is it?"), ("summary_scale", 1.5)])
def test_settings_that_change_the_tokens_change_the_identity(
    trained: Path, name: str, value: Any
) -> None:
    before = provenance_of(trained, "float16", "float32")
    text = (trained / CONFIG_FILE).read_text()
    config = json.loads(text)
    config["compressor"][name] = value
    (trained / CONFIG_FILE).write_text(json.dumps(config))
    try:
        found = differences(before, provenance_of(trained, "float16", "float32"))
    finally:
        (trained / CONFIG_FILE).write_text(text)
    assert len(found) == 1
    assert name in found[0]
    assert str(value) in found[0]


def test_the_settings_of_the_base_are_part_of_it(trained: Path) -> None:
    before = provenance_of(trained, "float16", "float32")
    other = before.model_copy(update={"model": before.model | {"base_settings_sha256": "0" * 64}})
    (line,) = differences(before, other)
    assert line.startswith('model.base_settings_sha256: "')


@pytest.mark.parametrize(
    ("file", "change", "outcome"),
    [
        (
            "config.json",
            '"rms_norm_eps": 1e-03',
            "SHA-256 of config.json, tokenizer, chat template",
        ),
        (
            "config.json",
            '"num_hidden_layers": 9, "rms_norm_eps": 1e-06',
            "missing, and would be random",
        ),
        (
            "model.safetensors",
            "version https://git-lfs.github.com/spec/v1",
            "is a pointer of git-lfs",
        ),
    ],
)
def test_another_base_is_refused_before_work(
    trained: Path, tmp_path: Path, file: str, change: str, outcome: str
) -> None:
    base = shutil.copytree(trained.parent / "tiny-llava", tmp_path / "base")
    check_base(trained, str(base))
    if file == "config.json":
        text = (base / file).read_text()
        assert '"rms_norm_eps": 1e-06' in text
        (base / file).write_text(text.replace('"rms_norm_eps": 1e-06', change))
    else:
        (base / file).write_text(change)
    with pytest.raises(ValueError, match=outcome):
        check_base(trained, str(base))


@pytest.mark.parametrize(
    "file", ["summary_queries.safetensors", "generation/adapter_model.safetensors"]
)
@pytest.mark.parametrize("fault", ["gone", "cut"])
def test_a_compressor_that_is_not_whole_is_refused_before_work(
    trained: Path, tmp_path: Path, file: str, fault: str
) -> None:
    path = shutil.copytree(trained, tmp_path / "compressor") / file
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=f"{file}: is (missing|cut)"):
        provenance_of(tmp_path / "compressor", "float16", "float32")
