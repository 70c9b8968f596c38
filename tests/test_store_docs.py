"""Examples of docs/store.md, run as they stand: plain readers give our ids and tokens."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.store.store_reader import StoreReader
from tests.components.store.stores import PROVENANCE, random_rows, write_store

EXAMPLES = re.findall(
    r"```python\n(.*?)```", Path("docs/store.md").read_text(encoding="utf-8"), re.DOTALL
)
PARTS = [random_rows(["a", "b/1.png", "c"], 0), random_rows(["d", "ü"], 1)]


@pytest.mark.parametrize(
    "example",
    EXAMPLES,
    ids=["pyarrow", "pandas", "polars", "duckdb", "duckdb of int8", "datasets", "ray", "ours"],
)
def test_example_reads_the_ids_and_the_tokens(
    example: str, tmp_path: Path, local_ray: None
) -> None:
    write_store(tmp_path / "store", PARTS)
    write_store(tmp_path / "store-int8", PARTS, PROVENANCE.model_copy(update={"codec": "int8"}))
    ours = StoreReader.open(tmp_path / ("store-int8" if "store-int8" in example else "store"))
    # Ray's workers have a folder of their own
    example = re.sub(r"(?<=[\"'])store", str(tmp_path / "store"), example)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["ids"] == ours.ids == ["a", "b/1.png", "c", "d", "ü"]
    assert names["tokens"].shape == (5, 3, 8)
    np.testing.assert_array_equal(np.asarray(names["tokens"], np.float32), ours.tokens(ours.ids))
