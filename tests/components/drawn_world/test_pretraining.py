"""Pretraining on packed questions: the numbers of one chat at a time in plain transformers."""

import numpy as np
import pytest
import torch
from PIL import Image

from components.drawn_world.pretraining import Encoder, answered_right, packed_hidden
from components.drawn_world.tiny_llava import build_tiny_llava
from components.drawn_world.tower_training import (
    TowerParams,
    patch_features,
    train_class_token,
    train_tower,
)
from components.losses.autoregressive import IGNORE_INDEX, answer_loss_sum
from components.training.packing import Block
from tests.components.model.tiny import TEXTS, TINY

PAIRS = [
    [("what colour is the circle?", "red"), ("is there a star?", "no")],
    [
        ("what colour is the circle?", "blue"),
        ("describe the picture.", "a small circle above a square"),
    ],
]

APART = [[(pair,) for pair in row] for row in PAIRS]


@pytest.fixture(scope="module")
def built():
    return build_tiny_llava(TINY, TEXTS, seed=0)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, size=(TINY.image_size, TINY.image_size, 3), dtype=np.uint8)
        for _ in range(2)
    ]


def test_pixel_values_are_those_of_the_image_processor(built, pictures: list[np.ndarray]) -> None:
    model, processor = built
    encoder = Encoder(processor, model.config.image_seq_length)
    expected = processor.image_processor(
        [Image.fromarray(p) for p in pictures], return_tensors="pt"
    ).pixel_values
    torch.testing.assert_close(encoder.pixel_values(pictures), expected, atol=1e-5, rtol=0)


def test_packed_loss_is_the_sum_over_single_chats_through_the_whole_model(
    built, pictures: list[np.ndarray]
) -> None:
    model, processor = built
    encoder = Encoder(processor, model.config.image_seq_length)
    batch = encoder.batch(pictures, APART, [True, True])
    packed = answer_loss_sum(
        packed_hidden(model, batch)[:, :-1], model.lm_head, batch.packed.labels[:, 1:]
    )
    alone = 0.0
    for picture, row in zip(pictures, PAIRS, strict=True):
        for question, answer in row:
            chat = f"USER: <image>\n{question} ASSISTANT: {answer}</s>"
            inputs = processor(images=Image.fromarray(picture), text=chat, return_tensors="pt")
            prompt = processor(
                images=Image.fromarray(picture),
                text=f"USER: <image>\n{question} ASSISTANT:",
                return_tensors="pt",
            )
            labels = inputs["input_ids"].clone()
            labels[:, : prompt["input_ids"].shape[1]] = -100
            num_labels = int((labels >= 0).sum())
            alone += float(model(**inputs, labels=labels).loss.detach()) * num_labels
    assert float(packed.detach()) == pytest.approx(alone, rel=1e-5)


def test_a_conversation_is_read_as_the_template_writes_it(
    built, pictures: list[np.ndarray]
) -> None:
    model, processor = built
    encoder = Encoder(processor, model.config.image_seq_length)
    batch = encoder.batch(pictures[:1], [[tuple(PAIRS[1])]], [True])
    turns = [f"USER: {'<image>' * (place == 0)}" for place in range(2)]
    chat = "".join(
        f"{start}{chr(10) * (place == 0)}{question} ASSISTANT: {answer}</s>"
        for place, (start, (question, answer)) in enumerate(zip(turns, PAIRS[1], strict=True))
    )
    expected = processor(images=Image.fromarray(pictures[0]), text=chat, return_tensors="pt")
    assert batch.packed.input_ids.tolist() == expected["input_ids"].tolist()

    # every answer and its end, nothing else
    labels = batch.packed.labels[0]
    learned = processor.tokenizer.decode(labels[labels != IGNORE_INDEX])
    assert learned.replace(" ", "") == "".join(f"{a}</s>" for _, a in PAIRS[1]).replace(" ", "")


def test_a_blind_row_does_not_see_its_picture(built, pictures: list[np.ndarray]) -> None:
    model, processor = built
    encoder = Encoder(processor, model.config.image_seq_length)
    batch = encoder.batch(pictures, APART, [True, False])
    assert len(batch.pixel_values) == 1
    assert (batch.packed.input_ids[1] != model.config.image_token_id).all()
    other = encoder.batch([pictures[0], 255 - pictures[1]], APART, [True, False])
    torch.testing.assert_close(packed_hidden(model, batch), packed_hidden(model, other))


def test_answered_right_is_what_greedy_decoding_says(pictures: list[np.ndarray]) -> None:
    """Ask for what the model says anyway (right) and for something else (wrong)."""
    model, processor = build_tiny_llava(TINY, TEXTS, seed=0)
    with torch.no_grad():
        model.lm_head.weight[model.config.image_token_id] = 0  # an untrained model might say it
    encoder = Encoder(processor, model.config.image_seq_length)
    prompt = processor(
        images=Image.fromarray(pictures[0]),
        text="USER: <image>\nwhat is it? ASSISTANT:",
        return_tensors="pt",
    )
    said = model.generate(**prompt, max_new_tokens=3, do_sample=False)[
        0, prompt["input_ids"].shape[1] :
    ]
    block = encoder._block((("what is it?", "x"),))
    question_ids = [token for token, label in zip(*block, strict=True) if label == IGNORE_INDEX]

    def answered(answer: list[int]) -> Block:
        return Block([*question_ids, *answer], [IGNORE_INDEX] * len(question_ids) + answer)

    right, wrong = (
        answered(said.tolist()),
        answered([*said.tolist()[:-1], (int(said[-1]) + 7) % 300]),
    )
    is_right, is_wrong = (("q", "right"),), (("q", "wrong"),)
    encoder.blocks = {is_right: right, is_wrong: wrong}
    rows = [[is_right, is_wrong], [is_wrong, is_right]]
    batch = encoder.batch([pictures[0], pictures[0]], rows, [True, True])
    assert answered_right(model, batch) == [[True, False], [False, True]]


def test_tower_learns_what_its_patches_show_and_is_frozen_afterwards() -> None:
    model, _ = build_tiny_llava(TINY, TEXTS, seed=1)
    generator = torch.Generator().manual_seed(0)
    patches = (TINY.image_size // TINY.patch_size) ** 2
    labels = torch.randint(0, 3, (8, patches, 1), generator=generator)
    shades = (labels.float() - 1).reshape(8, 1, 3, 3).repeat(1, 3, 1, 1)
    pixel_values = torch.nn.functional.interpolate(shades, scale_factor=TINY.patch_size)
    params = TowerParams(num_steps=60, num_warmup_steps=5, batch_size=8, learning_rate=1e-2)
    before = patch_features(model, pixel_values).detach()
    loss = train_tower(model, [(pixel_values, labels)] * params.num_steps, [3], params)
    assert loss < 0.3 < np.log(3)
    assert not torch.equal(before, patch_features(model, pixel_values))
    assert not any(parameter.requires_grad for parameter in model.model.vision_tower.parameters())


def test_class_token_learns_what_the_picture_shows_and_where_and_nothing_before_it_changes() -> (
    None
):
    """One patch of each picture is bright or dark."""
    model, _ = build_tiny_llava(TINY, TEXTS, seed=1)
    generator = torch.Generator().manual_seed(0)
    places, shades = (
        torch.randint(0, 9, (64,), generator=generator),
        torch.randint(1, 3, (64,), generator=generator),
    )
    labels = torch.zeros(64, 9, 1, dtype=torch.long).scatter(
        1, places[:, None, None], shades[:, None, None]
    )
    values = torch.tensor([0.0, -1.0, 1.0])[labels].reshape(64, 1, 3, 3).repeat(1, 3, 1, 1)
    pixel_values = torch.nn.functional.interpolate(values, scale_factor=TINY.patch_size)
    params = TowerParams(num_steps=150, num_warmup_steps=5, batch_size=64, learning_rate=1e-2)
    train_tower(model, [(pixel_values, labels)] * params.num_steps, [3], params)
    before = patch_features(model, pixel_values).detach()
    loss = train_class_token(model, [(pixel_values, labels)] * params.num_steps, [3], params)
    assert loss < 0.1 < np.log(2)
    assert torch.equal(before, patch_features(model, pixel_values))
    assert not any(parameter.requires_grad for parameter in model.model.vision_tower.parameters())
    tower = model.model.vision_tower.eval()
    tower.set_attn_implementation("eager")
    # of the class token
    attention = tower(pixel_values, output_attentions=True).attentions[-1].mean(1)[:, 0, 1:]
    assert (attention.argmax(1) == places).float().mean() > 0.8


def test_patch_features_are_what_the_connector_reads(built, pictures: list[np.ndarray]) -> None:
    model, processor = built
    pixel_values = Encoder(processor, model.config.image_seq_length).pixel_values(pictures)
    projected = model.model.multi_modal_projector(patch_features(model, pixel_values))
    expected = torch.stack(
        list(model.model.get_image_features(pixel_values=pixel_values).pooler_output)
    )
    torch.testing.assert_close(projected, expected)
