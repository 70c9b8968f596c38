"""One LoRA adapter per pass on the language model, or one for both, and the switch (§3.5, Table 6).

PEFT's `set_adapter` turns off the gradients of the adapter that is not active, and gradient
checkpointing recomputes a layer when another pass may be active: both train the wrong thing in
silence. This switch touches neither gradients nor PEFT's state, and tells the checkpoint which
adapter a layer ran with.
"""

import contextlib
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from pydantic import Field
from torch import nn

from components.model.backbone import Backbone
from components.model.families.llava import num_read_layers
from components.model.lora import lora_forward
from components.params import Params

COMPRESSION = "compression"
GENERATION = "generation"
PASSES = (COMPRESSION, GENERATION)
SHARED = "shared"
TOWER_LINEARS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")  # of a CLIP layer
Linear = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class AdapterParams(Params):
    """LoRA settings, the same for both adapters."""

    # an adapter for each pass, one for both, or the layers' own weights
    sharing: Literal["per_pass", "shared", "none"]
    rank: int = Field(ge=1)
    alpha: int = Field(ge=1)  # the update is scaled by alpha / rank
    dropout: float = Field(ge=0, lt=1)  # share of the inputs of an adapter set to zero in training
    targets: tuple[Linear, ...] = Field(min_length=1)  # linear layers of the language model

    @property
    def adapter_of(self) -> dict[str, str | None]:
        """The name of the adapter that each pass runs with; None: its own layers are trained."""
        if self.sharing == "per_pass":
            return {name: name for name in PASSES}
        return dict.fromkeys(PASSES, SHARED if self.sharing == "shared" else None)

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters of both passes."""
        return adapter_names(self.adapter_of)


class AdapterSwitch:
    """Choose the pass for which the language model is adapted.

    Outside of a `with switch.use(...)` block the language model runs without adapters.
    """

    def __init__(self, model: nn.Module, adapter_of: Mapping[str, str | None]) -> None:
        self.model: Any = model  # a PeftModel, or a bare model without adapters
        self.adapter_of = adapter_of
        self.base_is_left = True  # without an adapter; no longer once one is merged
        self.layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        for layer in self.layers:
            layer.forward = partial(lora_forward, layer)
        self.active: str | None = None
        self.activate(None)

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters of the passes that can be used."""
        return adapter_names(self.adapter_of)

    def use(self, name: str | None) -> "ActiveAdapter":
        """Run the block with the adapter of a pass, or with the base model alone if None.

        Blocks may be nested. Raises ValueError for an unknown pass, and for the base alone once an
        adapter is merged into it.
        """
        if name not in self.adapter_of and not (name is None and self.base_is_left):
            others = "; an adapter is merged into the weights"
            if self.base_is_left:
                others = " or None for the base model"
            raise ValueError(
                f"there is no pass {name!r}; use one of {', '.join(self.adapter_of)}{others}"
            )
        return ActiveAdapter(self, None if name is None else self.adapter_of[name])

    def activate(self, adapter: str | None) -> None:
        """Let every layer run with an adapter, or without one."""
        self.active = adapter
        for layer in self.layers:
            # PEFT's private name; the test of exact gradients notices when it changes
            layer._active_adapter = [] if adapter is None else [adapter]

    def merge(self, name: str) -> None:
        """Add the adapter of a pass to the weights, for good, which takes less work per token.

        W + (alpha / rank) B A is rounded to the base's number type. Passes with this adapter go
        on; others, and the base alone, can no longer be used. For a pass without an adapter
        nothing changes.
        """
        adapter = self.adapter_of.get(name)
        if adapter is None:
            return

        # What was trained for another adapter does not fit the new weights.
        self.model, self.layers = self.model.merge_and_unload(adapter_names=[adapter]), []
        self.adapter_of = {other: None for other, own in self.adapter_of.items() if own == adapter}
        self.base_is_left = False

    @torch.no_grad()
    def cosine(self) -> float:
        """Return the cosine between the updates B A of the two adapters, over all layers.

        1: the same; 0: unrelated, or training has not begun. The updates themselves are never
        formed: <B A, D C> = tr((D'B)(A C')), whose factors are as small as the rank.
        """
        first, second = (name or "" for name in self.adapter_of.values())
        scale = math.sqrt(self._inner(first, first) * self._inner(second, second))
        return self._inner(first, second) / scale if scale else 0.0

    def _inner(self, first: str, second: str) -> float:
        """Return the inner product of two adapters' updates, as if all layers were one vector."""
        total = 0.0
        for layer in self.layers:
            if not {first, second} <= set(layer.lora_A):
                continue  # a layer of the vision tower, in the single pass
            a, b = layer.lora_A[first].weight, layer.lora_B[first].weight
            c, d = layer.lora_A[second].weight, layer.lora_B[second].weight
            total += float(((d.T @ b) * (c @ a.T)).sum())  # type: ignore[operator]  # tensors
        return total

    def context_fn(self) -> tuple[contextlib.AbstractContextManager[None], "ActiveAdapter"]:
        """Return the contexts that `torch.utils.checkpoint` runs and recomputes layers in.

        Recomputing uses the adapter that was active in the forward pass.
        """
        return contextlib.nullcontext(), ActiveAdapter(self, self.active)


class ActiveAdapter(contextlib.AbstractContextManager[None]):
    """One choice of the switch; may be entered again, as a second backward pass does."""

    def __init__(self, switch: AdapterSwitch, adapter: str | None) -> None:
        self.switch = switch
        self.adapter = adapter
        self.previous: list[str | None] = []

    def __enter__(self) -> None:
        self.previous.append(self.switch.active)
        self.switch.activate(self.adapter)

    def __exit__(self, *exception: object) -> None:
        self.switch.activate(self.previous.pop())


def adapter_names(adapter_of: Mapping[str, str | None]) -> tuple[str, ...]:
    """Return the names of the adapters, each once, in the order of the passes."""
    return tuple(dict.fromkeys(filter(None, adapter_of.values())))


def attach_adapters(
    backbone: Backbone, params: AdapterParams, passes: Sequence[str], seed: int, in_tower: bool
) -> AdapterSwitch:
    """Put the adapters of some passes into the language model, in place.

    They are float32 and trainable, and start as the identity. With `in_tower` the first one is
    also in the vision tower. Without adapters the decoder layers and the final norm become
    trainable.
    """
    adapter_of = {name: params.adapter_of[name] for name in passes}
    names = adapter_names(adapter_of)
    if not names:
        return AdapterSwitch(backbone.train_decoder(), adapter_of)

    first, *others = names
    tower_layers = num_read_layers(backbone.vlm) if in_tower else 0
    decoder = backbone.decoder_name
    # PEFT draws the first values of A: from the seed alone, and nobody else's numbers move.
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(seed)
        # PEFT asks for recomputed activations by a name that transformers has replaced.
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )
        config = lora_config(params, decoder, tower_layers)
        peft_model = get_peft_model(backbone.vlm, config, adapter_name=first)
        for name in others:
            peft_model.add_adapter(name, lora_config(params, decoder, 0))

    # PEFT leaves the first adapter trainable only.
    peft_model.set_requires_grad(list(names))
    return AdapterSwitch(peft_model, adapter_of)


def lora_config(params: AdapterParams, decoder: str, num_tower_layers: int) -> LoraConfig:
    """Build PEFT's settings; `decoder` is the language model's name in the whole model.

    The layers of the vision tower have the same names as the decoder's: the pattern keeps LoRA
    off them, but for the first `num_tower_layers`.
    """
    # PEFT matches a pattern against the full name of every module.
    patterns = [rf"{re.escape(decoder)}\.layers\.\d+\..*\.({'|'.join(params.targets)})"]
    if num_tower_layers:
        numbers = "|".join(map(str, range(num_tower_layers)))
        patterns.append(
            rf"model\.vision_tower\.encoder\.layers\.({numbers})\..*\.({'|'.join(TOWER_LINEARS)})"
        )
    return LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules="|".join(map("({})".format, patterns)),
    )
