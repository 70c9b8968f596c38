"""The one vector against a plain forward of transformers; what learns, and what is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from components.methods.blocks.lvlm_embedder import LvlmEmbedder
from components.methods.catalogue import build_method
from components.methods.checkpoint import load_compressor, save_compressor
from components.methods.method_settings import ChosenMethod
from components.model.chat import encode_text
from components.model.generation import left_pad
from tests.components.losses.pairs import pair_loss
from tests.components.methods.settings import EMBEDDERS, SETTINGS
from tests.components.model.tiny import COMPRESSOR, load

CPU = torch.device("cpu")
TEXTS = ["a red circle", "two", "a large blue square above a green star"]


def built(folder: Path, name: str, tuning: str = "trained", is_moved: bool = True) -> LvlmEmbedder:
    """An embedder, away from where LoRA starts if it has an adapter."""
    chosen = ChosenMethod(name=name, tuning=tuning, settings=SETTINGS[name])  # type: ignore[arg-type]
    model = build_method(load(folder), COMPRESSOR, chosen, seed=0).eval()
    with torch.no_grad():
        for parameter in [p for p in model.parameters() if p.requires_grad and is_moved]:
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    assert isinstance(model, LvlmEmbedder)
    return model


def ids_of(model: LvlmEmbedder, texts: list[str]) -> tuple[Tensor, Tensor]:
    return left_pad([encode_text(model.tokenizer, text) for text in texts], CPU)


def by_hand(folder: Path, picture: Image.Image | None, text: str) -> Tensor:
    """The last hidden state of transformers' own model for one picture or one text, of length 1."""
    backbone = load(folder)
    chat = ["USER: " + "<image>" * 9 + "\nSummary above image in one word: ASSISTANT:"]
    if picture is None:
        chat = ["USER:", text, "\nSummary above sentence in one word: ASSISTANT:"]
    words = [
        token
        for part in chat
        for token in backbone.tokenizer(part, add_special_tokens=False)["input_ids"]
    ]
    ids = torch.tensor([[backbone.tokenizer.bos_token_id, *words]])
    pixels: dict[str, Any] = backbone.prepare([picture]).tensors if picture else {}
    output = backbone.vlm(
        input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True, **pixels
    )
    state = output.hidden_states[-1][:, -1]
    return state / state.norm()


@torch.no_grad()
@pytest.mark.parametrize("name", EMBEDDERS)
def test_an_untrained_one_is_the_last_hidden_state_of_the_base_model(
    name: str, llava_folder: Path, pictures: list[Image.Image]
) -> None:
    """LoRA starts as the identity."""
    model = built(llava_folder, name, is_moved=False)
    vectors = model.compress_pictures(model.prepare(pictures))
    assert vectors.shape == (8, 1, model.dim)
    expected = torch.cat([by_hand(llava_folder, picture, "") for picture in pictures])
    torch.testing.assert_close(vectors[:, 0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.embed_pictures(vectors), expected, rtol=1e-4, atol=1e-5)
    texts = model.compress_texts(*ids_of(model, TEXTS))
    expected = torch.cat([by_hand(llava_folder, None, text) for text in TEXTS])
    torch.testing.assert_close(texts[:, 0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model.embed_texts(*ids_of(model, TEXTS)), expected, rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("name", EMBEDDERS)
def test_company_and_padding_change_nothing(
    name: str, llava_folder: Path, pictures: list[Image.Image]
) -> None:
    model = built(llava_folder, name)
    together = model.compress_pictures(model.prepare(pictures))
    alone = torch.cat([model.compress_pictures(model.prepare([picture])) for picture in pictures])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    texts = model.embed_texts(*ids_of(model, TEXTS))
    each = torch.cat([model.embed_texts(*ids_of(model, [text])) for text in TEXTS])
    torch.testing.assert_close(texts, each, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("name", ["e5v", "vlm2vec"])
def test_gradients_reach_the_adapter_and_nothing_else(
    name: str, llava_folder: Path, pictures: list[Image.Image]
) -> None:
    model = built(llava_folder, name)
    images = model.embed_pictures(model.compress_pictures(model.prepare(pictures[:3])))
    pair_loss(images, model.embed_texts(*ids_of(model, TEXTS)), model.logit_scale).backward()
    trained = {key: weight for key, weight in model.named_parameters() if weight.requires_grad}
    assert trained
    assert all(".lora_" in key and ".compression." in key for key in trained)
    assert all(weight.grad is not None and weight.grad.any() for weight in trained.values())
    assert not any(
        weight.grad is not None for key, weight in model.named_parameters() if key not in trained
    )


@pytest.mark.parametrize(("name", "scale"), [("e5v", 20.0), ("vlm2vec", 50.0)])
def test_the_temperature_is_the_papers_and_fixed(
    name: str, scale: float, llava_folder: Path
) -> None:
    model = built(llava_folder, name)
    model.clamp_logit_scale()
    torch.testing.assert_close(model.logit_scale, torch.tensor(scale))
    assert not model.log_logit_scale.requires_grad


@pytest.mark.parametrize(
    ("name", "tuning"), [("lvlm_zero_shot", "trained"), ("e5v", "none"), ("vlm2vec", "none")]
)
def test_as_it_comes_nothing_learns(name: str, tuning: str, llava_folder: Path) -> None:
    model = built(llava_folder, name, tuning)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.chosen.tuning == "none"


@torch.no_grad()
@pytest.mark.parametrize("name", EMBEDDERS)
def test_a_saved_one_comes_back_the_same_with_one_token(
    name: str, llava_folder: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    model = built(llava_folder, name)
    save_compressor(model, tmp_path / "saved", {})
    loaded = load_compressor(
        tmp_path / "saved", str(llava_folder), CPU, torch.float32, num_summary_tokens=1
    )
    prepared = model.prepare(pictures[:2])
    expected = model.compress_pictures(prepared)
    assert torch.equal(loaded.compress_pictures(prepared), expected)
    assert torch.equal(
        loaded.embed_texts(*ids_of(model, TEXTS)), model.embed_texts(*ids_of(model, TEXTS))
    )
    assert torch.equal(loaded.logit_scale, model.logit_scale)
    assert loaded.params == model.params
    loaded.adapters.merge("compression")
    torch.testing.assert_close(loaded.compress_pictures(prepared), expected, rtol=1e-4, atol=1e-5)


def test_it_cannot_answer_and_says_so(llava_folder: Path) -> None:
    model = built(llava_folder, "vlm2vec")
    with pytest.raises(ValueError, match="keeps one vector of a picture"):
        model.answer(torch.zeros(1, 1, model.dim), [[1]], 2)
    with pytest.raises(ValueError, match="none can be left out"):
        model.keep_first(2)
