"""Settings of every method for the tiny LLaVA of the tests: a grid of 3 × 3 patches, a tower of three layers."""

from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {
    "average_pooling": {},
}
