"""Settings of every method for the tiny LLaVA of the tests: a grid of 3 × 3 patches, a tower of three layers."""

from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {
    "average_pooling": {},
    "fastv": {"layer": 2},
    "m3": {"scales": [1, 9]},
    "mqt": {"num_queries": 4, "num_heads": 2},
    "quecc": {"layers": [-2, -3], "num_heads": 2},
}
