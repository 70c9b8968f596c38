import pytest
import torch

from components.evaluation.systems import (
    Visuals,
    base_answer,
    base_reader,
    batches_of_like_length,
    compressed_reader,
    generate_answers,
    log_likelihoods,
)
from components.losses.autoregressive import IGNORE_INDEX
from components.methods.fwd2bot import DoubleForward
from components.model.backbone import Backbone
from components.model.chat import encode_conversation, encode_prompt
from components.model.segments import text_segment
from tests.components.model.tiny import prepared

QUESTIONS = [
    "what colour is the small circle?",
    "red?",
    "what is above the green star, and what is blue?",
    "a",
    "large?",
]
NEW_TOKENS = 12


def prompts_for(base: Backbone, num_visual_tokens: int) -> list[list[int]]:
    return [encode_prompt(base.chat, question, num_visual_tokens) for question in QUESTIONS]


def generate_from_pixels(
    base: Backbone, pixel_values: torch.Tensor, prompt: list[int]
) -> list[int]:
    """Plain transformers, one picture and one prompt, nothing of ours in between."""
    input_ids = torch.tensor([prompt])
    output = base.vlm.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        pixel_values=pixel_values[None],
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
    )
    new = output[0, len(prompt) :].tolist()
    end = base.tokenizer.eos_token_id
    return new[: new.index(end)] if end in new else new


def test_all_image_tokens_give_what_plain_transformers_gives(
    base: Backbone, model: DoubleForward, pixel_values: torch.Tensor
) -> None:
    prompts = prompts_for(base, base.num_image_tokens)
    expected = [
        generate_from_pixels(base, pixels, prompt)
        for pixels, prompt in zip(pixel_values, prompts, strict=True)
    ]
    image_embeddings = base.encode_images(prepared(pixel_values))
    assert base_answer(base, image_embeddings, prompts, NEW_TOKENS) == expected
    assert len({tuple(row) for row in expected}) > 1


def test_the_blind_base_reads_the_question_alone(base: Backbone) -> None:
    prompts = prompts_for(base, 0)
    assert all(base.image_token_id not in prompt for prompt in prompts)
    input_ids = torch.tensor([prompts[0]])
    plain = base.vlm.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
    )
    found = base_answer(base, None, prompts, NEW_TOKENS)[0]
    assert plain[0, len(prompts[0]) :].tolist()[: len(found)] == found


def test_answers_come_in_order_for_the_right_picture_whatever_the_batches(
    model: DoubleForward, pixel_values: torch.Tensor
) -> None:
    tokens = model.compress_images(model.backbone.encode_images(prepared(pixel_values))).detach()
    prompts = prompts_for(model.backbone, model.num_summary_tokens)
    pictures = [4, 0, 0, 2, 1]
    alone = [
        model.answer(tokens[[at]], [prompt], 6)[0]
        for at, prompt in zip(pictures, prompts, strict=True)
    ]
    for batch_size in (1, 2, 16):
        visuals = Visuals(text_segment(tokens), pictures)
        assert generate_answers(compressed_reader(model), visuals, prompts, 6, batch_size) == alone


@pytest.mark.parametrize("with_picture", [True, False])
def test_log_likelihoods_equal_a_loop_over_full_logits(
    base: Backbone, pixel_values: torch.Tensor, with_picture: bool
) -> None:
    tokens = base.encode_images(prepared(pixel_values)) if with_picture else None
    num_visual = base.num_image_tokens if with_picture else 0
    start = "<image>\n" if with_picture else ""
    conversations = [
        encode_conversation(
            base.chat,
            [
                {"role": "user", "content": start + "describe"},
                {"role": "assistant", "content": text},
            ],
            num_visual,
        )
        for text in QUESTIONS
    ]
    expected = []
    for row, (input_ids, labels) in enumerate(conversations):
        pixels = {"pixel_values": pixel_values[[row]]} if with_picture else {}
        logits = base.vlm(input_ids=torch.tensor([input_ids]), **pixels).logits[0].log_softmax(-1)
        told = [
            logits[at - 1, label].item() for at, label in enumerate(labels) if label != IGNORE_INDEX
        ]
        expected.append(sum(told) / len(told))
    assert log_likelihoods(
        base_reader(base), Visuals(tokens, range(5)), conversations, 2
    ) == pytest.approx(expected, abs=1e-4)


def test_batches_hold_every_row_once_and_like_with_like() -> None:
    assert list(batches_of_like_length([5, 1, 3, 1, 4], 2)) == [[1, 3], [2, 4], [0]]
