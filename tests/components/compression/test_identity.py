"""Whatever decides the values of stored tokens is part of the identity of the compressor that wrote them."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.compression.identity import provenance_of
from components.compression.provenance import differences
from components.methods.checkpoint import CONFIG_FILE
from tests.components.compression.models import write_models


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize(("name", "value"), [("prompt", "What is it?"), ("summary_scale", 1.5)])
def test_settings_that_change_the_tokens_change_the_identity(trained: Path, name: str, value: Any) -> None:
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
