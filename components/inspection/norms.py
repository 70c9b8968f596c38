"""Norms of the adapters' updates (alpha / rank) B A, by Frobenius (Fig. 3).

The update is as large as the layer that it is added to, and is never formed: |B A|² = tr((B'B)(A
A')), whose factors are as small as the rank.
"""

import math
from collections.abc import Iterable
from itertools import starmap
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from components.inspection.inspection_files import DECIMALS
from components.inspection.parts import AbsentError

# adapter -> kind of linear layer -> norm in each decoder layer
Norms = dict[str, dict[str, list[float]]]


def adapter_norms(decoder_layers: nn.ModuleList) -> dict[str, Any]:
    """Return {"layers": adapter -> norm in each decoder layer, "linears": by kind of linear layer}.

    A decoder layer's norm takes the updates of its linear layers as one vector. Raises AbsentError
    for a language model without adapters.
    """
    norms = linear_norms(decoder_layers)
    if not norms:
        raise AbsentError(
            "its language model has no adapters: it is the base model, or its own weights were "
            "trained"
        )

    # The square of a layer's norm is the sum of the squares of its linear layers' norms.
    layers: dict[str, list[float]] = {}
    linears: Norms = {}
    for adapter, kinds in norms.items():
        by_layer = zip(*kinds.values(), strict=True)
        layers[adapter] = rounded(starmap(math.hypot, by_layer))
        linears[adapter] = {kind: rounded(values) for kind, values in kinds.items()}
    return {"layers": layers, "linears": linears}


def rounded(values: Iterable[float]) -> list[float]:
    """Round values as they are published."""
    return [round(value, DECIMALS) for value in values]


def linear_norms(decoder_layers: nn.ModuleList) -> Norms:
    """Return the norm of every adapter in every linear layer; 0 where it has none."""
    norms: Norms = {}
    for number, layer in enumerate(decoder_layers):
        for name, linear in layer.named_modules():
            if not isinstance(linear, LoraLayer):
                continue

            # Layers without an adapter of this kind keep their zeros.
            kind = name.rpartition(".")[2]
            for adapter in linear.lora_A:
                kinds = norms.setdefault(adapter, {})
                by_layer = kinds.setdefault(kind, [0.0] * len(decoder_layers))
                by_layer[number] = update_norm(linear, adapter)
    return norms


@torch.no_grad()
def update_norm(linear: Any, adapter: str) -> float:
    """Compute |(alpha / rank) B A| of an adapter in one of PEFT's LoRA layers."""
    a, b = linear.lora_A[adapter].weight.double(), linear.lora_B[adapter].weight.double()
    squared = float(((b.T @ b) * (a @ a.T)).sum())
    return linear.scaling[adapter] * math.sqrt(max(squared, 0.0))
