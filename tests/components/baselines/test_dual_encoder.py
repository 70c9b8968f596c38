"""Vectors are those of transformers' own outputs; what is trained, saved and refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer

from components.baselines.dual_encoder import DualEncoder
from components.methods.blocks.image_text_models import KINDS
from components.methods.catalogue import build_method
from components.methods.checkpoint import load_compressor, load_preparer, save_compressor
from components.methods.method_settings import ChosenMethod, CompressorParams
from components.model.chat import encode_text
from components.model.generation import left_pad
from tests.components.methods.image_text_checkpoints import DIMS, LONGEST, NAMES, save_checkpoint
from tests.components.methods.settings import SETTINGS
from tests.components.model.tiny import COMPRESSOR, load

CPU = torch.device("cpu")
QUERIES = dict.fromkeys(NAMES, 1) | {"Blip2ForImageTextRetrieval": 3}
TEXTS = ["a red circle", "two", "a large blue square above a green star, and small ones"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: save_checkpoint(name, folder / name) for name in NAMES}


def built(
    llava_folder: Path,
    checkpoint: Path | None,
    tuning: str,
    params: CompressorParams = COMPRESSOR,
    **changes: str,
) -> DualEncoder:
    settings = SETTINGS["dual_encoder"] | {"checkpoint": checkpoint and str(checkpoint)} | changes
    chosen = ChosenMethod(name="dual_encoder", tuning=tuning, settings=settings)  # type: ignore[arg-type]
    model = build_method(load(llava_folder), params, chosen, seed=0).eval()
    assert isinstance(model, DualEncoder)
    return model


def ids_of(model: DualEncoder, texts: list[str]) -> tuple[Tensor, Tensor]:
    return left_pad([encode_text(model.tokenizer, text) for text in texts], CPU)


def plain_vectors(
    folder: Path, name: str, pictures: list[Image.Image], texts: list[str]
) -> tuple[Tensor, Tensor]:
    """Embed by transformers, padded as documented: (pictures, tokens, dim) and (texts, dim)."""
    plain: Any = KINDS[name].load.from_pretrained(folder)
    tokenizer, processor = (
        AutoTokenizer.from_pretrained(folder),
        AutoImageProcessor.from_pretrained(folder),
    )
    padding = "max_length" if name == "SiglipModel" else True
    words = tokenizer(
        texts, padding=padding, truncation=True, max_length=LONGEST[name], return_tensors="pt"
    )
    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
    ids, mask = words["input_ids"], words["attention_mask"]
    if name == "CLIPModel":
        output = plain(input_ids=ids, attention_mask=mask, pixel_values=pixels)
        return output.image_embeds[:, None], output.text_embeds
    if name == "SiglipModel":
        output = plain(input_ids=ids, pixel_values=pixels)
        return output.image_embeds[:, None], output.text_embeds
    if name == "Blip2ForImageTextRetrieval":
        output = plain(pixel_values=pixels, input_ids=ids, attention_mask=mask)
        return output.image_embeds, output.text_embeds
    return blip_vectors(plain, pixels, ids, mask)


def blip_vectors(plain: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Embed by BLIP, whose outputs are cosines only: catch what its projections give on the way."""
    seen: dict[str, Tensor] = {}
    for part in ("vision_proj", "text_proj"):
        getattr(plain, part).register_forward_hook(
            lambda _m, _i, out, part=part: seen.update({part: out})
        )
    scores = plain(
        input_ids=ids, pixel_values=pixels, attention_mask=mask, use_itm_head=False
    ).itm_score
    vectors = [
        torch.nn.functional.normalize(seen[part], dim=-1) for part in ("vision_proj", "text_proj")
    ]
    torch.testing.assert_close(vectors[0] @ vectors[1].T, scores)
    return vectors[0][:, None], vectors[1]


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_those_of_transformers(
    name: str, llava_folder: Path, checkpoints: dict[str, Path], pictures: list[Image.Image]
) -> None:
    model = built(llava_folder, checkpoints[name], "none")
    images, texts = plain_vectors(checkpoints[name], name, pictures, TEXTS)
    stored = model.compress_pictures(model.prepare(pictures))
    assert (
        stored.shape == (8, QUERIES[name], DIMS[name]) == (8, model.num_summary_tokens, model.dim)
    )
    torch.testing.assert_close(torch.nn.functional.normalize(stored, dim=-1), images)
    expected = torch.nn.functional.normalize(images.mean(1), dim=-1)
    torch.testing.assert_close(model.embed_pictures(stored), expected)
    found = model.compress_texts(*ids_of(model, TEXTS))
    assert found.shape == (3, 1, DIMS[name])
    torch.testing.assert_close(model.embed_texts(*ids_of(model, TEXTS)), texts)
    torch.testing.assert_close(model.embedding(found), texts)


@torch.no_grad()
@pytest.mark.parametrize("name", [*NAMES, None])
def test_company_and_padding_change_nothing(
    name: str | None, llava_folder: Path, checkpoints: dict[str, Path], pictures: list[Image.Image]
) -> None:
    model = built(llava_folder, checkpoints[name] if name else None, "trained")
    together = model.compress_pictures(model.prepare(pictures))
    alone = torch.cat([model.compress_pictures(model.prepare([picture])) for picture in pictures])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    texts = model.embed_texts(*ids_of(model, TEXTS))
    each = torch.cat([model.embed_texts(*ids_of(model, [text])) for text in TEXTS])
    torch.testing.assert_close(texts, each, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    ids, mask = ids_of(model, TEXTS)
    torch.testing.assert_close(
        model.embed_texts(ids.flip(1), mask.flip(1))[1:2],
        model.embed_texts(ids[1:2].flip(1), mask[1:2].flip(1)),
    )


def test_a_small_clip_follows_from_the_seed_and_starts_with_even_positions(
    llava_folder: Path,
) -> None:
    models = [built(llava_folder, None, "trained").encoder for _ in range(2)]
    assert all(
        torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True)
    )
    positions = models[0].vision_model.embeddings.position_embedding.weight
    # 8 sines, 8 cosines
    torch.testing.assert_close(positions[1:].norm(dim=1), torch.full((9,), 0.3 * 8**0.5))
    assert not positions[0].any()


@torch.no_grad()
def test_a_small_clip_reads_a_text_to_its_end_token(llava_folder: Path) -> None:
    """Its end token's id is 2, by which transformers would look for the highest id instead."""
    model = built(llava_folder, None, "trained")
    bos, eos = model.tokenizer.bos_token_id, model.tokenizer.eos_token_id
    ids = torch.tensor([[bos, *encode_text(model.tokenizer, "a red circle"), eos]])
    states = model.encoder.text_model(input_ids=ids).last_hidden_state
    expected = torch.nn.functional.normalize(model.encoder.text_projection(states[:, -1]), dim=-1)
    torch.testing.assert_close(model.embed_texts(*ids_of(model, ["a red circle"])), expected)


@pytest.mark.parametrize("name", [*NAMES, None])
def test_gradients_reach_all_that_is_trained_and_nothing_else(
    name: str | None, llava_folder: Path, checkpoints: dict[str, Path], pictures: list[Image.Image]
) -> None:
    model = built(llava_folder, checkpoints[name] if name else None, "trained")
    images = model.embed_pictures(model.compress_pictures(model.prepare(pictures[:3])))
    (model.logit_scale * (images * model.embed_texts(*ids_of(model, TEXTS)))[:, 0].sum()).backward()
    trained = {key for key, weight in model.named_parameters() if weight.requires_grad}
    reached = {key for key, weight in model.named_parameters() if weight.grad is not None}
    assert reached == trained
    assert "log_logit_scale" in trained
    assert not any(key.startswith("backbone.") for key in trained)
    unread = sum(not weight.requires_grad for weight in model.encoder.parameters())
    assert unread < 0.3 * len(list(model.encoder.parameters()))


def test_as_it_comes_nothing_learns_and_nothing_is_saved(
    llava_folder: Path, checkpoints: dict[str, Path]
) -> None:
    model = built(llava_folder, checkpoints["CLIPModel"], "none")
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.own_tensors() == {}


@pytest.mark.parametrize("tuning", ["trained", "none"])
@pytest.mark.parametrize("name", [*NAMES, None])
def test_a_saved_one_comes_back_the_same(
    name: str | None,
    tuning: str,
    llava_folder: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    pictures: list[Image.Image],
) -> None:
    if name is None and tuning == "none":
        pytest.skip("is refused")
    model = built(llava_folder, checkpoints[name] if name else None, tuning)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn(parameter.shape))
    save_compressor(model, tmp_path / "saved", {})
    loaded = load_compressor(tmp_path / "saved", str(llava_folder), CPU, torch.float32)
    prepared = load_preparer(tmp_path / "saved", str(llava_folder)).prepare(pictures[:2])
    with torch.no_grad():
        assert torch.equal(
            loaded.compress_pictures(prepared), model.compress_pictures(model.prepare(pictures[:2]))
        )
        assert torch.equal(
            loaded.embed_texts(*ids_of(model, TEXTS)), model.embed_texts(*ids_of(model, TEXTS))
        )
    assert torch.equal(loaded.logit_scale, model.logit_scale)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["dim"], config["compressor"]["num_summary_tokens"]) == (
        model.dim,
        model.num_summary_tokens,
    )
    # whatever the checkpoint does, the base model's pictures are padded
    assert config["pad_to_square"]
    assert config["preprocessing"]["pad_to_square"] == (name is None)


def test_the_scale_starts_where_the_checkpoints_ended(
    llava_folder: Path, checkpoints: dict[str, Path]
) -> None:
    expected = torch.tensor(3.0).exp()
    torch.testing.assert_close(
        built(llava_folder, checkpoints["CLIPModel"], "trained").logit_scale.detach(), expected
    )
    small = built(llava_folder, None, "trained")
    torch.testing.assert_close(
        small.logit_scale.detach(), torch.tensor(COMPRESSOR.initial_logit_scale)
    )
    fixed = COMPRESSOR.model_copy(update={"logit_scale": "fixed"})
    assert not built(llava_folder, None, "trained", fixed).log_logit_scale.requires_grad


def test_another_checkpoint_in_its_place_is_refused(llava_folder: Path, tmp_path: Path) -> None:
    folder = save_checkpoint("CLIPModel", tmp_path / "clip")
    save_compressor(built(llava_folder, folder, "none"), tmp_path / "saved", {})
    save_checkpoint("CLIPModel", folder, seed=1)
    with pytest.raises(ValueError, match="SHA-256 of the weights is"):
        load_compressor(tmp_path / "saved", str(llava_folder), CPU, torch.float32)


def test_another_preprocessing_is_refused(llava_folder: Path, tmp_path: Path) -> None:
    folder = save_checkpoint("CLIPModel", tmp_path / "clip")
    save_compressor(built(llava_folder, folder, "none"), tmp_path / "saved", {})
    path = next(path for path in folder.glob("*processor_config.json"))
    path.write_text(path.read_text().replace("0.48145466", "0.4"))
    for look in (
        lambda: load_compressor(tmp_path / "saved", str(llava_folder), CPU, torch.float32),
        lambda: load_preparer(tmp_path / "saved", str(llava_folder)),
    ):
        with pytest.raises(ValueError, match="preprocessing is"):
            look()


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_a_checkpoint_lacks_are_refused_by_name(
    name: str, llava_folder: Path, tmp_path: Path
) -> None:
    path = save_checkpoint(name, tmp_path / "model") / "model.safetensors"
    tensors = load_file(path)
    lost = next(name for name in sorted(tensors) if name.endswith("fc1.weight"))
    del tensors[lost]
    save_file(tensors, path)
    with pytest.raises(
        ValueError, match=rf"model: weights do not fit .*1 missing, and would be random \({lost}\)"
    ):
        built(llava_folder, path.parent, "none")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"model/model\.safetensors: is cut"):
        built(llava_folder, path.parent, "none")


def test_a_checkpoint_with_other_settings_is_refused(llava_folder: Path, tmp_path: Path) -> None:
    folder = save_checkpoint("CLIPModel", tmp_path / "clip")
    save_compressor(built(llava_folder, folder, "none"), tmp_path / "saved", {})
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "relu"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="checkpoint of dual_encoder: SHA-256 of config"):
        load_compressor(tmp_path / "saved", str(llava_folder), CPU, torch.float32)


def test_what_cannot_be_a_dual_encoder_is_refused(llava_folder: Path) -> None:
    with pytest.raises(ValueError, match="knows nothing"):
        built(llava_folder, None, "none")
    with pytest.raises(
        ValueError, match="is a LlavaForConditionalGeneration; take one of CLIPModel"
    ):
        built(llava_folder, llava_folder, "none")


def test_a_checkpoint_is_looked_for_beside_the_base_model(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: list[Image.Image]
) -> None:
    base = shutil.copytree(llava_folder, tmp_path / "models" / "base")
    save_checkpoint("CLIPModel", tmp_path / "models" / "clip")
    model = built(base, Path("clip"), "none")
    save_compressor(model, tmp_path / "saved", {})
    moved = shutil.move(tmp_path / "models", tmp_path / "elsewhere") / "base"
    monkeypatch.chdir(tmp_path)
    loaded = load_compressor(tmp_path / "saved", str(moved), CPU, torch.float32)
    prepared = load_preparer(tmp_path / "saved", "elsewhere/base").prepare(pictures[:1])
    assert torch.equal(
        loaded.compress_pictures(prepared), model.compress_pictures(model.prepare(pictures[:1]))
    )
    with pytest.raises(
        ValueError,
        match=r"there is no folder .*elsewhere/clup; put it there, beside the base model",
    ):
        built(moved, Path("clup"), "none")


def test_it_cannot_answer_and_says_so(llava_folder: Path) -> None:
    with pytest.raises(ValueError, match="has no language model to answer with"):
        built(llava_folder, None, "trained").answer(None, [[1]], 2)


def test_merging_adapters_leaves_it_as_it_is(llava_folder: Path) -> None:
    model = built(llava_folder, None, "trained")
    model.adapters.merge("compression")
    assert model.adapters.names == ()
