"""Each setting of the compressor changes what it says, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from components.methods.checkpoint import load_compressor, save_compressor
from components.methods.fwd2bot import DoubleForward, build_double_forward
from components.model.adapters import COMPRESSION, GENERATION, SHARED
from components.model.backbone import weights_sha256
from components.model.chat import encode_text
from components.model.segments import Segment, text_segment
from components.training.collate import pad
from components.training.optimizer import trained_parameters
from tests.components.model.tiny import COMPRESSOR, compressor, load, prepared

CPU = torch.device("cpu")
K = COMPRESSOR.num_summary_tokens


def build(folder: Path, **settings: Any) -> DoubleForward:
    return compressor(folder, params=COMPRESSOR.model_copy(update=settings))


def shared(folder: Path) -> DoubleForward:
    return build(folder, adapters=COMPRESSOR.adapters.model_copy(update={"sharing": "shared"}))


@pytest.fixture
def pictures(llava_folder: Path) -> Segment:
    backbone = load(llava_folder)
    return text_segment(torch.randn(2, 9, backbone.dim, generator=torch.Generator().manual_seed(0)))


def saved_and_loaded(model: DoubleForward, base: Path, folder: Path) -> DoubleForward:
    folder.mkdir()
    save_compressor(model, folder, {})
    return load_compressor(folder, str(base), CPU, torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("num_tokens", range(1, K + 1))
def test_the_first_summary_tokens_do_not_depend_on_the_others(
    model: DoubleForward, pictures: Segment, num_tokens: int
) -> None:
    whole = model.compress_images(pictures)
    model.keep_first(num_tokens)
    torch.testing.assert_close(model.compress_images(pictures), whole[:, :num_tokens])


def test_tokens_that_depend_on_all_cannot_be_left_out(llava_folder: Path) -> None:
    model = build(llava_folder, attention="bidirectional")
    model.keep_first(K)
    with pytest.raises(ValueError, match="each depends on all"):
        model.keep_first(2)


@torch.no_grad()
def test_a_compressor_can_be_loaded_with_fewer_tokens(
    model: DoubleForward, pictures: Segment, llava_folder: Path, tmp_path: Path
) -> None:
    save_compressor(model, tmp_path, {})
    fewer = load_compressor(tmp_path, str(llava_folder), CPU, torch.float32, num_summary_tokens=2)
    assert fewer.num_summary_tokens == 2
    torch.testing.assert_close(
        fewer.compress_images(pictures), model.compress_images(pictures)[:, :2]
    )
    with pytest.raises(ValueError, match="5 summary tokens of a compressor with 4"):
        load_compressor(tmp_path, str(llava_folder), CPU, torch.float32, num_summary_tokens=5)


@torch.no_grad()
def test_a_bidirectional_pass_sees_what_comes_later(
    llava_folder: Path, model: DoubleForward, pictures: Segment
) -> None:
    """The oracle is the language model with its causal mask taken off by hand."""
    bidirectional = build(llava_folder, attention="bidirectional")
    found = bidirectional.compress_images(pictures)
    backbone = model.backbone
    prompt = backbone.embed(
        torch.tensor(encode_text(backbone.tokenizer, COMPRESSOR.prompt))
    ).expand(2, -1, -1)
    bos = backbone.embed(torch.tensor([backbone.tokenizer.bos_token_id])).expand(2, -1, -1)
    inputs = torch.cat(
        [bos, pictures.embeddings, prompt, model.queries.weight.expand(2, -1, -1)], dim=1
    )
    everything = torch.zeros(2, 1, inputs.shape[1], inputs.shape[1])
    with model.adapters.use(COMPRESSION):
        hidden = backbone.language_model(
            inputs_embeds=inputs, attention_mask=everything
        ).last_hidden_state
    torch.testing.assert_close(
        found, COMPRESSOR.summary_scale * hidden[:, -K:], rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(found, model.compress_images(pictures), atol=1e-2)


@torch.no_grad()
def test_padding_has_no_effect_on_a_bidirectional_pass(llava_folder: Path) -> None:
    model = build(llava_folder, attention="bidirectional")
    rows = [
        encode_text(model.backbone.tokenizer, text)
        for text in ("red", "a red circle above a star", "two")
    ]
    alone = torch.cat([model.compress_texts(*pad([row], 0)) for row in rows])
    torch.testing.assert_close(model.compress_texts(*pad(rows, 0)), alone, rtol=1e-4, atol=1e-5)


def test_a_learned_prompt_starts_at_the_words_and_gets_a_gradient(
    llava_folder: Path, model: DoubleForward, pictures: Segment, tmp_path: Path
) -> None:
    learned = build(llava_folder, prompt_embeddings="learned")
    torch.testing.assert_close(learned.compress_images(pictures), model.compress_images(pictures))
    learned.compress_images(pictures).square().sum().backward()
    prompt = learned.prompt_embeddings
    assert prompt is not None
    assert prompt.grad is not None
    assert prompt.grad.any(1).all()
    with torch.no_grad():
        prompt += 0.1
        loaded = saved_and_loaded(learned, llava_folder, tmp_path / "learned")
        assert torch.equal(loaded.compress_images(pictures), learned.compress_images(pictures))
    assert "prompt_embeddings" not in trained_parameters(model)


def test_a_learned_prompt_needs_words_to_start_from(llava_folder: Path) -> None:
    with pytest.raises(ValueError, match="`prompt` has no words"):
        build(llava_folder, prompt="", prompt_embeddings="learned")


def test_a_fixed_logit_scale_is_not_trained(llava_folder: Path, model: DoubleForward) -> None:
    fixed = build(llava_folder, logit_scale="fixed")
    assert trained_parameters(model).keys() - trained_parameters(fixed).keys() == {
        "log_logit_scale"
    }
    assert fixed.logit_scale.item() == pytest.approx(COMPRESSOR.initial_logit_scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_trained_connector_learns_in_float32_and_is_saved(
    llava_folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    model = compressor(llava_folder, dtype, COMPRESSOR.model_copy(update={"connector": "trained"}))
    connector = {
        name: p for name, p in trained_parameters(model).items() if "multi_modal_projector" in name
    }
    assert {p.dtype for p in connector.values()} == {torch.float32}
    assert len(connector) == 4
    pixels = prepared(torch.randn(2, 3, 48, 48))
    image_embeddings = model.backbone.encode_images(pixels)
    assert image_embeddings.embeddings.dtype == dtype
    model.compress_images(image_embeddings).float().square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in connector.values())
    assert not any(
        p.grad is not None for name, p in model.named_parameters() if "vision_tower" in name
    )
    with torch.no_grad():
        next(iter(connector.values())).mul_(1.5)
        folder = tmp_path / "trained"
        folder.mkdir()
        save_compressor(model, folder, {})
        before = weights_sha256(folder)
        loaded = load_compressor(folder, str(llava_folder), CPU, dtype)
        torch.testing.assert_close(
            loaded.backbone.encode_images(pixels).embeddings,
            model.backbone.encode_images(pixels).embeddings,
        )
        next(iter(connector.values())).mul_(1.5)
        save_compressor(model, folder, {})
    assert weights_sha256(folder) != before


def test_a_frozen_connector_builds_no_graph(model: DoubleForward) -> None:
    assert not model.backbone.encode_images(
        prepared(torch.randn(1, 3, 48, 48))
    ).embeddings.requires_grad


def test_without_adapters_the_decoder_itself_is_trained(
    llava_folder: Path, pictures: Segment, tmp_path: Path
) -> None:
    full = COMPRESSOR.model_copy(
        update={"adapters": COMPRESSOR.adapters.model_copy(update={"sharing": "none"})}
    )
    model = compressor(llava_folder, params=full)
    trained = trained_parameters(model)
    decoder = dict(
        model.backbone.language_model.named_parameters(prefix="backbone.vlm.model.language_model")
    )
    assert trained.keys() - {"queries.weight", "log_logit_scale"} == {
        name for name in decoder if not name.endswith("embed_tokens.weight")
    }
    model.compress_images(pictures).square().sum().backward()
    assert all(
        p.grad is not None and p.grad.any() for name, p in trained.items() if ".layers." in name
    )
    with torch.no_grad():
        for name, parameter in trained.items():
            if ".layers." in name:
                parameter.mul_(1.1)
        loaded = saved_and_loaded(model, llava_folder, tmp_path / "full")
        assert torch.equal(loaded.compress_images(pictures), model.compress_images(pictures))
        rounded = load_compressor(tmp_path / "full", str(llava_folder), CPU, torch.bfloat16)
        found = rounded.compress_images(text_segment(pictures.embeddings.bfloat16())).float()
        torch.testing.assert_close(found, model.compress_images(pictures), rtol=0.1, atol=0.1)


def test_one_shared_adapter_serves_both_passes(
    llava_folder: Path, pictures: Segment, tmp_path: Path
) -> None:
    model = shared(llava_folder)
    lora = [name for name in trained_parameters(model) if "lora_" in name]
    assert all(f".{SHARED}." in name for name in lora)
    with torch.no_grad():
        hidden = []
        for name in (COMPRESSION, GENERATION):
            with model.adapters.use(name):
                hidden.append(model.read(pictures))
        assert torch.equal(*hidden)
        assert not torch.allclose(hidden[0], model.read(pictures), atol=1e-2)
        loaded = saved_and_loaded(model, llava_folder, tmp_path / "shared")
        assert torch.equal(loaded.compress_images(pictures), model.compress_images(pictures))
        theirs = PeftModel.from_pretrained(
            load(llava_folder).vlm, str(tmp_path / "shared" / SHARED)
        )
        reference = theirs.base_model.model.model.language_model(
            inputs_embeds=pictures.embeddings
        ).last_hidden_state
    torch.testing.assert_close(hidden[0], reference)


def test_the_cosine_of_two_adapters_is_that_of_their_updates(
    model: DoubleForward, llava_folder: Path
) -> None:
    updates = []
    for name in (COMPRESSION, GENERATION):
        pairs = [
            (layer.lora_A[name].weight, layer.lora_B[name].weight)
            for layer in model.adapters.layers
        ]
        updates.append(torch.cat([(b @ a).flatten() for a, b in pairs]))
    expected = torch.nn.functional.cosine_similarity(*updates, dim=0).item()
    assert model.adapters.cosine() == pytest.approx(expected, abs=1e-6)
    assert shared(llava_folder).adapters.cosine() == pytest.approx(1)
    untrained = build_double_forward(load(llava_folder), COMPRESSOR, seed=0)
    assert untrained.adapters.cosine() == 0
