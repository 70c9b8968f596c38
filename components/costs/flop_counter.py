"""PyTorch's counter of operations, with the products that it passes over."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def flop_counter() -> FlopCounterMode:
    """Return a counter that knows products added in place, as those of the adapters are."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: product_flops})


def product_flops(_: Any, left: Sequence[int], right: Sequence[int], **__: Any) -> int:
    """Count the operations of a matrix product by the shapes of its two sides."""
    return 2 * left[0] * left[1] * right[1]
