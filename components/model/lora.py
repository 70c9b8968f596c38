"""LoRA computed in the number type of the base model.

PEFT casts the input of each adapter to float32. With a bfloat16 base these copies are more than
half of all that waits for the backward pass, and three layers that read the same tensor keep a copy
each. Here the small matrices are cast instead: they stay float32 where they are trained and kept,
and the product is added in one kernel.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor


def lora_forward(layer: Any, inputs: Tensor) -> Tensor:
    """Compute W x + (alpha / rank) B A x of the active adapter, or W x without one.

    (…, inputs) -> (…, outputs). `layer` is PEFT's `LoraLayer` around a linear layer, with plain
    LoRA (no bias of its own, no DoRA).
    """
    rows = inputs.flatten(0, -2)
    output = layer.base_layer(rows)

    for name in layer.active_adapters:
        # In the vision tower there is only the adapter of the first pass.
        if name not in layer.lora_A:
            continue

        a = layer.lora_A[name].weight.to(inputs.dtype)
        b = layer.lora_B[name].weight.to(inputs.dtype)
        hidden = F.linear(layer.lora_dropout[name](rows), a)  # (rows, rank)

        # Product, scale and sum in one kernel, and in place: nobody else has seen the output.
        output.addmm_(hidden, b.T, alpha=layer.scaling[name])
    return output.unflatten(0, inputs.shape[:-1])
