"""What every reducer does inside a LLaVA; what one does to tokens is tested beside it."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from components.methods.catalogue import build_method
from components.methods.checkpoint import load_compressor, save_compressor
from components.methods.method import Method
from components.methods.method_settings import ChosenMethod
from components.model.chat import encode_prompt, encode_text
from components.model.generation import left_pad
from components.model.pooling import cells
from tests.components.methods.settings import REDUCERS, SETTINGS
from tests.components.model.tiny import COMPRESSOR, load

CPU = torch.device("cpu")


def built(folder: Path, name: str, tuning: str = "trained", count: int = 4) -> Method:
    chosen = ChosenMethod(name=name, tuning=tuning, settings=SETTINGS[name])  # type: ignore[arg-type]
    params = COMPRESSOR.model_copy(update={"num_summary_tokens": count})
    return build_method(load(folder), params, chosen, seed=0).eval()


def test_every_reducer_has_settings_here() -> None:
    assert set(SETTINGS) >= set(REDUCERS)


@torch.no_grad()
@pytest.mark.parametrize("name", REDUCERS)
def test_one_picture_gives_what_it_gives_among_eight(
    name: str, llava_folder: Path, pictures: list[Image.Image]
) -> None:
    model = built(llava_folder, name)
    together = model.compress_pictures(model.backbone.prepare(pictures))
    alone = torch.cat(
        [model.compress_pictures(model.backbone.prepare([picture])) for picture in pictures]
    )
    assert together.shape[0] == 8
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", REDUCERS)
def test_a_saved_one_comes_back_the_same(
    name: str, llava_folder: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    model = built(llava_folder, name)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(
                    0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
                )
    save_compressor(model, tmp_path / "saved", {})
    loaded = load_compressor(tmp_path / "saved", str(llava_folder), CPU, torch.float32)
    prepared = model.backbone.prepare(pictures[:2])
    with torch.no_grad():
        encoded = model.compress_pictures(prepared)
        torch.testing.assert_close(loaded.compress_pictures(prepared), encoded)
    prompts = [
        encode_prompt(model.backbone.chat, text, model.num_placeholders)
        for text in ("what?", "what colour?")
    ]
    assert loaded.answer(encoded, prompts, 4) == model.answer(encoded, prompts, 4)


@pytest.mark.parametrize("name", REDUCERS)
def test_as_they_come_nothing_learns(name: str, llava_folder: Path) -> None:
    model = built(llava_folder, name, tuning="none")
    assert not any(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("name", REDUCERS)
def test_pictures_and_texts_become_unit_vectors_that_padding_does_not_change(
    name: str, llava_folder: Path, pictures: list[Image.Image]
) -> None:
    model = built(llava_folder, name)
    if model.why_not_stored:
        pytest.skip("has nothing to search for")
    vectors = model.embed_pictures(model.compress_pictures(model.backbone.prepare(pictures[:3])))
    rows = [encode_text(model.backbone.tokenizer, text) for text in ("a red circle", "two")]
    texts = model.embed_texts(*left_pad(rows, CPU))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    alone = model.embed_texts(*left_pad(rows[1:], CPU))
    torch.testing.assert_close(texts[1:], alone, rtol=1e-4, atol=1e-5)


def test_cells_are_square_and_in_raster_order() -> None:
    patches = torch.arange(36.0).reshape(1, 36, 1)
    found = cells(patches, 9)[0, ..., 0]
    assert found[0].tolist() == [0, 1, 6, 7]
    assert found[5].tolist() == [16, 17, 22, 23]
