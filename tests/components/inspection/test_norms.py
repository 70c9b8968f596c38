"""Norms against the formed update B A, and against what a known one must have."""

from pathlib import Path

import pytest
import torch

from components.baselines.single_forward import build_single_forward
from components.inspection.norms import adapter_norms
from components.inspection.parts import AbsentError
from components.methods.fwd2bot import DoubleForward
from components.model.adapters import COMPRESSION, PASSES, SHARED
from components.model.backbone import Backbone
from tests.components.model.tiny import COMPRESSOR, TINY, compressor, load


def adapted(folder: Path, **changes: object) -> DoubleForward:
    """A compressor with other settings of its adapters."""
    adapters = COMPRESSOR.adapters.model_copy(update=changes)
    return compressor(folder, params=COMPRESSOR.model_copy(update={"adapters": adapters}))


@torch.no_grad()
def test_norms_are_those_of_the_formed_updates(model: DoubleForward) -> None:
    found = adapter_norms(model.backbone.language_model.layers)
    assert list(found["layers"]) == list(found["linears"]) == list(PASSES)
    for adapter in PASSES:
        for number, layer in enumerate(model.backbone.language_model.layers):
            updates = {
                # alpha / rank
                kind: linear.lora_B[adapter].weight @ linear.lora_A[adapter].weight * (8 / 4)
                for name, linear in layer.named_modules()
                if (kind := name.split(".")[-1]) in COMPRESSOR.adapters.targets
            }
            assert set(found["linears"][adapter]) == set(updates)
            for kind, update in updates.items():
                assert found["linears"][adapter][kind][number] == pytest.approx(
                    float(update.norm()), rel=1e-5
                )
            whole = torch.cat([update.flatten() for update in updates.values()]).norm()
            assert found["layers"][adapter][number] == pytest.approx(float(whole), rel=1e-5)


@torch.no_grad()
def test_the_two_passes_differ_and_zero_stays_zero(model: DoubleForward) -> None:
    for name, parameter in model.named_parameters():
        if f"lora_B.{COMPRESSION}" in name:
            parameter.zero_()
    found = adapter_norms(model.backbone.language_model.layers)["layers"]
    assert found[COMPRESSION] == [0.0] * TINY.text_num_layers
    assert min(found["generation"]) > 0


def test_a_shared_adapter_is_one_and_few_targets_are_few(llava_folder: Path) -> None:
    model = adapted(llava_folder, sharing="shared", targets=("q_proj", "down_proj"))
    found = adapter_norms(model.backbone.language_model.layers)
    assert list(found["layers"]) == [SHARED]
    assert set(found["linears"][SHARED]) == {"q_proj", "down_proj"}


def test_adapters_of_the_vision_tower_are_not_counted(llava_folder: Path) -> None:
    model = build_single_forward(load(llava_folder), COMPRESSOR, seed=0)
    found = adapter_norms(model.backbone.language_model.layers)
    assert {len(norms) for norms in found["layers"].values()} == {TINY.text_num_layers}
    assert {kind for kinds in found["linears"].values() for kind in kinds} == set(
        COMPRESSOR.adapters.targets
    )


def test_without_adapters_the_reason_is_given(llava_folder: Path, backbone: Backbone) -> None:
    for layers in (
        backbone.language_model.layers,
        adapted(llava_folder, sharing="none").backbone.language_model.layers,
    ):
        with pytest.raises(AbsentError, match="no adapters"):
            adapter_norms(layers)
