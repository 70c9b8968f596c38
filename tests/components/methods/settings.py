"""Settings of every method for the tiny LLaVA of the tests: a grid of 3 × 3 patches, a tower of three layers."""

from typing import Any

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
    "dual_encoder": {"checkpoint": None, "revision": None, "weights_sha256": None, "small_clip": SMALL_CLIP},
    "e5v": {"temperature": 0.05},
    "lvlm_zero_shot": {},
    "vlm2vec": {"temperature": 0.02},
}
