"""Settings of every method for the tests' tiny LLaVA: 3 × 3 patches, a tower of three layers."""

from typing import Any

from components.methods.blocks.lvlm_embedder import LvlmEmbedder
from components.methods.blocks.token_reduction import Reduced
from components.methods.catalogue import method_class, method_module, method_names

SMALL_CLIP = {
    "patch_size": 16,
    "vision_hidden_size": 16,
    "vision_num_layers": 2,
    "position_amplitude": 0.3,
    "text_hidden_size": 12,
    "text_num_layers": 2,
    "num_heads": 2,
    "projection_dim": 8,
    "max_text_tokens": 20,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "average_pooling": {},
    "prumerge": {"num_neighbours": 3},
    "prumerge_plus": {"num_neighbours": 3, "grid_share": 0.5},
    "stf": {
        "layers": [-2, -3],
        "fusion_width": 4,
        "projector_width": 16,
        "initialization": "kaiming",
        "token_scale": 2.0,
    },
    "tokenpacker": {"layers": [-2, -3], "num_heads": 2},
    "fastv": {"layer": 2},
    "m3": {"scales": [1, 9]},
    "mqt": {"num_queries": 4, "num_heads": 2, "token_scale": 3.0},
    "quecc": {"layers": [-2, -3], "num_heads": 2},
    "dual_encoder": {
        "checkpoint": None,
        "revision": None,
        "weights_sha256": None,
        "small_clip": SMALL_CLIP,
    },
    "e5v": {"temperature": 0.05},
    "lvlm_zero_shot": {},
    "vlm2vec": {"temperature": 0.02},
}


# names of the methods that are reducers, and of those that are embedders
REDUCERS = [name for name in method_names() if issubclass(method_class(name), Reduced)]
EMBEDDERS = [name for name in method_names() if issubclass(method_class(name), LvlmEmbedder)]
UNTRAINED = [name for name in method_names() if method_module(name).num_stages == 0]
