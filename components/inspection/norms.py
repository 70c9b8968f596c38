"""Norms of the adapters' updates (alpha / rank) B A, by Frobenius (Fig. 3).

The update is as large as the layer that it is added to, and is never formed: |B A|² = tr((B'B)(A
A')), whose factors are as small as the rank.
"""

import math
from collections.abc import Iterable
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

    A decoder layer's norm is that of its linear layers' updates as one vector.
    Raises AbsentError for a language model without adapters.
    """
    norms = linear_norms(decoder_layers)
    if not norms:
        raise AbsentError(
            "its language model has no adapters: it is the base model, or its own weights were "
            "trained"
        )
    layers: dict[str, list[float]] = {}
    linears: Norms = {}
    for adapter, kinds in norms.items():
        by_layer = zip(*kinds.values(), strict=True)
        layers[adapter] = rounded(math.hypot(*of_layer) for of_layer in by_layer)
        linears[adapter] = {kind: rounded(of_kind) for kind, of_kind in kinds.items()}
    return {"layers": layers, "linears": linears}


def rounded(values: Iterable[float]) -> list[float]:
    """Round values as they are published."""
    return [round(value, DECIMALS) for value in values]


def linear_norms(decoder_layers: nn.ModuleList) -> Norms:
    """Return the norm of every adapter in every linear layer; 0 where it has none."""
    norms: Norms = {}
    for number, layer in enumerate(decoder_layers):
        for name, linear in layer.named_modules():
            for adapter in linear.lora_A if isinstance(linear, LoraLayer) else ():
                kind = name.rpartition(".")[2]
                of_adapter = norms.setdefault(adapter, {})
                of_kind = of_adapter.setdefault(kind, [0.0] * len(decoder_layers))
                of_kind[number] = update_norm(linear, adapter)
    return norms


@torch.no_grad()
def update_norm(linear: Any, adapter: str) -> float:
    """Compute |(alpha / rank) B A| of an adapter in one of PEFT's LoRA layers."""
    a, b = (matrices[adapter].weight.double() for matrices in (linear.lora_A, linear.lora_B))
    squared = float(((b.T @ b) * (a @ a.T)).sum())
    return linear.scaling[adapter] * math.sqrt(max(squared, 0.0))
