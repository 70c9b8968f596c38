from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from components.drawn_world.tiny_llava import build_tiny_llava, build_tokenizer
from components.model.positions import sincos_positions
from tests.components.model.tiny import TEXTS, TINY


def test_the_folder_is_an_ordinary_hugging_face_model(llava_folder: Path) -> None:
    assert (
        type(AutoModelForImageTextToText.from_pretrained(llava_folder))
        is LlavaForConditionalGeneration
    )
    processor = AutoProcessor.from_pretrained(llava_folder)
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]
    assert (
        processor.apply_chat_template(turns, add_generation_prompt=True)
        == "USER: <image>\nwhat? ASSISTANT:"
    )


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    models = []
    for before, seed in ((0, 0), (1, 0), (0, 1)):
        torch.manual_seed(before)
        models.append(build_tiny_llava(TINY, TEXTS, seed)[0].state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert any(not torch.equal(models[0][name], models[2][name]) for name in models[0])


def test_every_text_has_an_encoding() -> None:
    tokenizer = build_tokenizer(TEXTS, TINY.vocab_size)
    text = "Ünseen: 日本 🟥 \x00"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    assert tokenizer("").input_ids == [tokenizer.bos_token_id]


def test_positions_tell_cells_apart_and_neighbours_are_alike() -> None:
    positions = sincos_positions(6, 32)
    assert positions.shape == (37, 32)
    assert not positions[0].any()
    similarity = positions[1:] @ positions[1:].T
    assert (similarity.argmax(1) == torch.arange(36)).all()
    corner = similarity[0].view(6, 6)
    assert corner[0, 1] > corner[0, 3]
    torch.testing.assert_close(corner, corner.T)
