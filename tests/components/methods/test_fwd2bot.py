from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from components.methods.fwd2bot import DoubleForward
from components.model.chat import encode_prompt, encode_text
from components.model.generation import left_pad
from components.model.segments import text_segment
from tests.components.model.tiny import COMPRESSOR, compressor

K = COMPRESSOR.num_summary_tokens
CAPTIONS = [
    "red",
    "a red circle",
    "a large blue square above a green star",
    "two",
    "",
    "<image> </s>",
    "x y z",
    "star",
]


@pytest.fixture
def image_embeddings(model: DoubleForward, pictures: list[Image.Image]) -> Tensor:
    return model.backbone.encode_images(model.backbone.prepare(pictures)).embeddings


def right_pad(rows: list[list[int]], filler: int) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [filler] * (width - len(row)) for row in rows], dtype=torch.long)
    return ids, torch.arange(width)[None].expand_as(ids).lt(
        torch.tensor([[len(row)] for row in rows])
    ).long()


@torch.no_grad()
def test_a_picture_compresses_alone_as_in_a_batch(
    model: DoubleForward, image_embeddings: Tensor
) -> None:
    alone = torch.cat([model.compress_images(text_segment(row[None])) for row in image_embeddings])
    torch.testing.assert_close(
        model.compress_images(text_segment(image_embeddings)), alone, rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("filler", [0, 7])
def test_a_caption_compresses_alone_as_in_a_padded_batch(model: DoubleForward, filler: int) -> None:
    rows = [encode_text(model.backbone.tokenizer, caption) for caption in CAPTIONS]
    alone = torch.cat([model.compress_texts(*right_pad([row], 0)) for row in rows])
    torch.testing.assert_close(
        model.compress_texts(*right_pad(rows, filler)), alone, rtol=1e-4, atol=1e-5
    )
    left = model.compress_texts(*left_pad(rows, torch.device("cpu")))
    torch.testing.assert_close(left, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_chat_reads_alone_as_in_a_padded_batch_with_and_without_pictures(
    model: DoubleForward, image_embeddings: Tensor
) -> None:
    summary_tokens = model.compress_images(text_segment(image_embeddings[:3]))
    chat = model.backbone.chat
    rows = [encode_prompt(chat, "what?", K), encode_prompt(chat, "who are you?", 0)]
    rows += [
        encode_prompt(chat, question, K)
        for question in ("what colour is the large square?", "two?")
    ]
    hidden = model.generation_hidden(summary_tokens, *right_pad(rows, 0))
    for row, index in enumerate([0, None, 1, 2]):
        visual_tokens = None if index is None else summary_tokens[index : index + 1]
        alone = model.generation_hidden(visual_tokens, *right_pad([rows[row]], 0))[0]
        torch.testing.assert_close(hidden[row, : len(alone)], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_generation_pass_sees_nothing_of_the_picture_but_summary_tokens(
    model: DoubleForward, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = right_pad([encode_prompt(model.backbone.chat, "what is it?", K)], 0)
    first, second = (
        model.compress_images(model.backbone.encode_images(model.backbone.prepare([picture])))
        for picture in pictures[:2]
    )
    assert not torch.allclose(first, second, atol=1e-3)
    lengths: list[int] = []
    decoder = model.backbone.language_model
    decoder.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]),
        with_kwargs=True,
    )
    hidden = model.generation_hidden(first, *prompt)
    assert lengths == [prompt[0].shape[1]]  # one pass, as long as the chat with its K placeholders

    for module in (
        model.backbone.vlm.model.vision_tower,
        model.backbone.vlm.model.multi_modal_projector,
    ):
        # from here on the pictures cannot be looked at
        monkeypatch.setattr(module, "forward", None)
    model.compress_images(text_segment(torch.randn(1, 9, model.backbone.dim)))
    assert torch.equal(model.generation_hidden(first, *prompt), hidden)
    assert not torch.allclose(model.generation_hidden(second, *prompt), hidden, atol=1e-3)


def test_all_influence_of_the_image_on_the_answer_passes_through_the_summary_tokens(
    model: DoubleForward, image_embeddings: Tensor
) -> None:
    image_embeddings.requires_grad_()
    prompt = right_pad(
        [encode_prompt(model.backbone.chat, "what is it?", K)] * len(image_embeddings), 0
    )
    summary_tokens = model.compress_images(text_segment(image_embeddings))
    through, around = (
        torch.autograd.grad(
            model.generation_hidden(visual, *prompt).square().sum(),
            image_embeddings,
            allow_unused=True,
        )[0]
        for visual in (summary_tokens, summary_tokens.detach())
    )
    assert through.any()
    assert around is None


@torch.no_grad()
def test_compressing_computes_no_logits(
    model: DoubleForward, image_embeddings: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.backbone.lm_head, "forward", None)
    assert model.compress_images(text_segment(image_embeddings)).shape == (8, K, model.backbone.dim)


@torch.no_grad()
def test_the_prompt_and_the_queries_come_after_the_picture(
    model: DoubleForward, image_embeddings: Tensor
) -> None:
    before = model.compress_images(text_segment(image_embeddings))
    model.queries.weight[-1] += 1  # causal: only the last summary token may notice
    after = model.compress_images(text_segment(image_embeddings))
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1], atol=1e-3)


@torch.no_grad()
def test_each_pass_listens_to_its_own_adapter(
    model: DoubleForward, image_embeddings: Tensor
) -> None:
    prompt = right_pad([encode_prompt(model.backbone.chat, "what?", K)], 0)
    summary_tokens = model.compress_images(text_segment(image_embeddings[:1]))
    hidden = model.generation_hidden(summary_tokens, *prompt)
    for name, parameter in model.named_parameters():
        if "lora_B.generation" in name:
            parameter.zero_()
    assert torch.equal(model.compress_images(text_segment(image_embeddings[:1])), summary_tokens)
    assert not torch.allclose(model.generation_hidden(summary_tokens, *prompt), hidden, atol=1e-3)


def test_embeddings_are_the_normalised_float32_mean(model: DoubleForward) -> None:
    summary_tokens = torch.randn(3, K, 32, dtype=torch.bfloat16)
    vectors = model.embedding(summary_tokens)
    means = summary_tokens.float().sum(1)
    torch.testing.assert_close(vectors, means / means.norm(dim=1, keepdim=True))


def test_as_many_visual_tokens_as_placeholders_are_required(model: DoubleForward) -> None:
    prompt = right_pad([encode_prompt(model.backbone.chat, "what?", K)], 0)
    for visual_tokens in (None, torch.zeros(1, K + 1, model.backbone.dim)):
        with pytest.raises(ValueError, match="4 image placeholders for"):
            model.generation_hidden(visual_tokens, *prompt)


def test_bfloat16_weights_leave_what_is_trained_in_float32(
    llava_folder: Path, pictures: list[Image.Image]
) -> None:
    model = compressor(llava_folder, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {
        torch.float32
    }
    summary_tokens = model.compress_images(
        model.backbone.encode_images(model.backbone.prepare(pictures))
    )
    assert summary_tokens.dtype == torch.bfloat16
    model.embedding(summary_tokens).sum().backward()
    assert model.queries.weight.grad is not None
    assert model.queries.weight.grad.isfinite().all()
