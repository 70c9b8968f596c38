"""The product of a LoRA layer against PEFT's own."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from components.model.lora import lora_forward

WIDTH, OUTPUTS = 6, 10


def build(dtype: torch.dtype, dropout: float = 0.0) -> LoraLayer:
    torch.manual_seed(0)
    model = get_peft_model(
        nn.Sequential(nn.Linear(WIDTH, OUTPUTS)).to(dtype),
        LoraConfig(
            r=3, lora_alpha=7, lora_dropout=dropout, target_modules=["0"], init_lora_weights=False
        ),
    )
    return next(module for module in model.modules() if isinstance(module, LoraLayer))


def gradients(layer: LoraLayer, output: Tensor, inputs: Tensor) -> tuple[Tensor, ...]:
    leaves = [inputs, layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    return torch.autograd.grad((output.float() * torch.arange(OUTPUTS)).sum(), leaves)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5)])
def test_value_and_gradients_are_pefts(shape: tuple[int, ...]) -> None:
    layer = build(torch.float64)
    inputs = torch.randn(*shape, WIDTH, dtype=torch.float64, requires_grad=True)
    ours, theirs = lora_forward(layer, inputs), layer(inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    for found, expected in zip(
        gradients(layer, ours, inputs), gradients(layer, theirs, inputs), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_dropout_drops_what_pefts_does() -> None:
    layer = build(torch.float32, dropout=0.5).train()
    inputs = torch.randn(4, WIDTH)
    torch.manual_seed(3)
    ours = lora_forward(layer, inputs)
    torch.manual_seed(3)
    torch.testing.assert_close(ours, layer(inputs))


def test_a_half_precision_base_keeps_no_float32_copies() -> None:
    layer = build(torch.bfloat16)
    for name in ("lora_A", "lora_B"):
        getattr(layer, name)["default"].float()
    inputs = torch.randn(2, 5, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor) or tensor, lambda it: it
    ):
        output = lora_forward(layer, inputs)
    assert output.dtype == torch.bfloat16
    assert all(tensor.dtype == torch.bfloat16 for tensor in saved)
    found = gradients(layer, output, inputs)
    assert [gradient.dtype for gradient in found] == [torch.bfloat16, torch.float32, torch.float32]
    expected = gradients(layer, layer(inputs), inputs)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=0.05, atol=0.5)


def test_without_an_active_adapter_it_is_the_base_layer() -> None:
    layer = build(torch.float32)
    layer._active_adapter = []
    inputs = torch.randn(3, WIDTH)
    assert torch.equal(lora_forward(layer, inputs), layer.base_layer(inputs))
