"""Settings of every method for the tiny LLaVA of the tests: a grid of 3 × 3 patches, a tower of three layers."""

from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {
    "average_pooling": {},
    "prumerge": {"num_neighbours": 3},
    "prumerge_plus": {"num_neighbours": 3, "grid_share": 0.5},
    "stf": {"layers": [-2, -3], "fusion_width": 4, "projector_width": 16, "initialization": "kaiming"},
    "tokenpacker": {"layers": [-2, -3], "num_heads": 2},
    "fastv": {"layer": 2},
    "m3": {"scales": [1, 9]},
    "mqt": {"num_queries": 4, "num_heads": 2},
    "quecc": {"layers": [-2, -3], "num_heads": 2},
}
