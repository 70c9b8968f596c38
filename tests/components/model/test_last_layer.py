"""The narrowed last layer against the whole model: values and gradients, for every class."""

import pytest
import torch
from torch import Tensor
from transformers import (
    GemmaConfig,
    GemmaModel,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    PreTrainedModel,
    Qwen2Config,
    Qwen2Model,
)

from components.model.last_layer import hidden_states_at, take

SHAPE = {
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "pad_token_id": 0,
}
MODELS = [
    (LlamaModel, LlamaConfig),
    (MistralModel, MistralConfig),
    (Qwen2Model, Qwen2Config),
    (GemmaModel, GemmaConfig),
]
ROWS, TOKENS = 3, 9
PLACES = torch.tensor([[8, 7, 3], [2, 0, 0], [5, 6, 4]])
LENGTHS = torch.tensor([9, 3, 7])


def build(
    model_class: type[PreTrainedModel], config_class: type, attention: str
) -> PreTrainedModel:
    torch.manual_seed(0)
    model = model_class(config_class(**SHAPE, attn_implementation=attention)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def masks() -> dict[str, Tensor | None]:
    blocks = torch.tensor([[0, 0, 1, 1, 2, 2, 2, 3, 3]]).expand(ROWS, -1)
    sees = (blocks[:, None] == 0) | (blocks[:, None] == blocks[:, :, None])
    return {
        "none": None,
        "padded": (torch.arange(TOKENS) < LENGTHS[:, None]).long(),
        "packed": (sees & torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril())[:, None],
    }


@pytest.mark.parametrize("mask", ["none", "padded", "packed"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("model_class", "config_class"), MODELS)
def test_values_and_gradients_are_those_of_the_whole_model(
    model_class: type[PreTrainedModel], config_class: type, attention: str, mask: str
) -> None:
    model = build(model_class, config_class, attention)
    embeddings = torch.randn(ROWS, TOKENS, 16, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(ROWS, PLACES.shape[1], 16, dtype=torch.float64)
    inputs = {
        "inputs_embeds": embeddings,
        "attention_mask": masks()[mask],
        "position_ids": torch.arange(TOKENS).expand(ROWS, -1),
        "use_cache": False,
    }
    narrow = hidden_states_at(model, PLACES, **inputs)
    whole = take(model(**inputs).last_hidden_state, PLACES)
    torch.testing.assert_close(narrow, whole, rtol=1e-6, atol=1e-6)
    leaves = [
        embeddings,
        *(p for name, p in model.named_parameters() if "embed_tokens" not in name),
    ]
    gradients, expected = (
        torch.autograd.grad((result * weights).sum(), leaves) for result in (narrow, whole)
    )
    # the norms compute in float32 whatever comes
    for ours, reference in zip(gradients, expected, strict=True):
        assert (ours - reference).norm() <= 1e-6 * reference.norm()


def test_queries_and_the_mlp_of_the_last_layer_run_at_the_kept_places_only() -> None:
    model = build(LlamaModel, LlamaConfig, "sdpa")
    lengths = {}
    for index, layer in enumerate(model.layers):
        for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"):
            layer.get_submodule(name).register_forward_pre_hook(
                lambda _, args, key=(index, name): lengths.update({key: args[0].shape[1]})
            )
    hidden_states_at(
        model,
        PLACES,
        inputs_embeds=torch.randn(ROWS, TOKENS, 16, dtype=torch.float64),
        use_cache=False,
    )
    assert (
        lengths.pop((2, "self_attn.q_proj")) == lengths.pop((2, "mlp.down_proj")) == PLACES.shape[1]
    )
    assert set(lengths.values()) == {TOKENS}
    assert "forward" not in vars(model.layers[-1])
