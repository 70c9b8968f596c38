"""The training step against a reference that knows neither PEFT nor checkpointing nor padding."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from components.losses.autoregressive import IGNORE_INDEX, answer_loss_sum
from components.methods.fwd2bot import DoubleForward
from components.methods.method import enable_gradient_checkpointing
from components.model.chat import encode_conversation, encode_text
from components.training.collate import answer_positions
from tests.components.losses.pairs import pair_loss
from tests.components.model.tiny import COMPRESSOR, compressor, load, prepared

BATCH = 3
CAPTIONS = ["a red circle", "a large blue square above a green star", "two"]
ANSWERS = ["red", "a blue square", "no"]
NO_DROPOUT = COMPRESSOR.model_copy(
    update={"adapters": COMPRESSOR.adapters.model_copy(update={"dropout": 0.0})}
)
K = COMPRESSOR.num_summary_tokens


@pytest.fixture(scope="module")
def pixel_values() -> Tensor:
    return torch.randn(
        BATCH, 3, 48, 48, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )


def chats(model: DoubleForward) -> list[tuple[list[int], list[int]]]:
    turns = [
        ("<image>\nwhat is it?", ANSWERS[0]),
        ("what colour is it? <image>", ANSWERS[1]),
        ("<image>", ANSWERS[2]),
    ]
    conversations = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in turns
    ]
    return [
        encode_conversation(model.backbone.chat, conversation, K) for conversation in conversations
    ]


def right_pad(rows: list[list[int]], filler: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


def losses(model: DoubleForward, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """Both losses of one batch, as training computes them: padded, batched, interleaved passes."""
    captions = [encode_text(model.backbone.tokenizer, caption) for caption in CAPTIONS]
    summary_tokens = model.compress_images(model.backbone.encode_images(prepared(pixel_values)))
    mask = right_pad([[1] * len(row) for row in captions], 0)
    text_summary_tokens = model.compress_texts(right_pad(captions, 0), mask)
    input_ids, labels = zip(*chats(model), strict=True)
    mask = right_pad([[1] * len(row) for row in input_ids], 0)
    predicting, targets = answer_positions(right_pad(list(labels), IGNORE_INDEX))
    hidden = model.generation_hidden(
        summary_tokens, right_pad(list(input_ids), 0), mask, places=predicting
    )
    contrastive = pair_loss(
        model.embedding(summary_tokens), model.embedding(text_summary_tokens), model.logit_scale
    )
    num_answer_tokens = (targets != IGNORE_INDEX).sum()
    return answer_loss_sum(hidden, model.backbone.lm_head, targets) / num_answer_tokens, contrastive


def reference_losses(
    vlm: LlavaForConditionalGeneration,
    leaves: dict[str, Tensor],
    model: DoubleForward,
    pixel_values: Tensor,
) -> tuple[Tensor, Tensor]:
    """The same, row by row, on the plain model with W + (alpha / rank) B A in place of W."""
    decoder = vlm.model.language_model
    embed = decoder.embed_tokens

    def read(adapter: str, embeddings: Tensor) -> Tensor:
        weights = dict(decoder.named_parameters())
        prefix = "backbone.vlm.model.language_model."
        for name, a in leaves.items():
            if f"lora_A.{adapter}." in name:
                update = leaves[name.replace("lora_A", "lora_B")] @ a
                key = name.removeprefix(prefix).replace(f"lora_A.{adapter}.", "")
                weights[key] = (
                    weights[key] + COMPRESSOR.adapters.alpha / COMPRESSOR.adapters.rank * update
                )
        kwargs = {"inputs_embeds": embeddings[None], "use_cache": False}
        return torch.func.functional_call(decoder, weights, (), kwargs).last_hidden_state[0]

    def compress(content: Tensor) -> Tensor:
        bos = torch.tensor([model.backbone.tokenizer.bos_token_id])
        prompt = torch.tensor(encode_text(model.backbone.tokenizer, COMPRESSOR.prompt))
        hidden = read(
            "compression", torch.cat([embed(bos), content, embed(prompt), leaves["queries.weight"]])
        )
        return COMPRESSOR.summary_scale * hidden[-K:]

    features = vlm.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states[-2][
        :, 1:
    ]
    images = [compress(row) for row in vlm.model.multi_modal_projector(features)]
    captions = [encode_text(model.backbone.tokenizer, caption) for caption in CAPTIONS]
    texts = [compress(embed(torch.tensor(row))) for row in captions]
    image_vectors, text_vectors = (
        torch.stack([row.mean(0) / row.mean(0).norm() for row in rows]) for rows in (images, texts)
    )
    logits = leaves["log_logit_scale"].exp() * image_vectors @ text_vectors.T
    contrastive = (
        -(logits.log_softmax(1).diagonal().mean() + logits.log_softmax(0).diagonal().mean()) / 2
    )
    token_losses = []
    for (input_ids, labels), summary_tokens in zip(chats(model), images, strict=True):
        first = input_ids.index(vlm.config.image_token_id)
        ids = torch.tensor(input_ids)
        hidden = read(
            "generation", torch.cat([embed(ids[:first]), summary_tokens, embed(ids[first + K :])])
        )
        token_losses.append(
            functional.cross_entropy(
                vlm.lm_head(hidden[:-1]), torch.tensor(labels[1:]), reduction="none"
            )
        )
    per_token = torch.cat(token_losses)
    return per_token.sum() / (per_token != 0).sum(), contrastive


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize(
    ("autoregressive_weight", "contrastive_weight"), [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)]
)
def test_every_gradient_equals_the_plain_reference(
    llava_folder: Path,
    pixel_values: Tensor,
    autoregressive_weight: float,
    contrastive_weight: float,
    is_checkpointed: bool,
) -> None:
    model = compressor(llava_folder, torch.float64, NO_DROPOUT).double().train()
    if is_checkpointed:
        enable_gradient_checkpointing(model)
    trainable = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    leaves = {
        name: parameter.detach().clone().requires_grad_() for name, parameter in trainable.items()
    }
    plain = load(llava_folder, torch.float64).vlm

    autoregressive, contrastive = losses(model, pixel_values)
    (autoregressive_weight * autoregressive + contrastive_weight * contrastive).backward()
    expected = reference_losses(plain, leaves, model, pixel_values)
    (autoregressive_weight * expected[0] + contrastive_weight * expected[1]).backward()

    torch.testing.assert_close(
        torch.stack([autoregressive, contrastive]), torch.stack(expected), rtol=1e-10, atol=0
    )
    for name, leaf in leaves.items():
        ours, reference = trainable[name].grad, leaf.grad
        is_in_loss = reference is not None and bool(reference.any())
        if not is_in_loss:
            assert ours is None or not ours.any(), name
        else:
            assert ours is not None, name
            assert (ours - reference).norm() / reference.norm() < 1e-8, name


def test_answers_alone_teach_the_compression_adapter_and_the_queries(
    llava_folder: Path, pixel_values: Tensor
) -> None:
    model = compressor(llava_folder, torch.float64)
    losses(model, pixel_values)[0].backward()
    grads = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    untouched = {name for name, grad in grads.items() if grad is None or not grad.any()}
    assert untouched == {"log_logit_scale"}


def test_checkpointing_recomputes_with_the_same_dropout(
    llava_folder: Path, pixel_values: Tensor
) -> None:
    gradients = []
    for is_checkpointed in (False, True):
        model = compressor(llava_folder, torch.float64).train()
        if is_checkpointed:
            enable_gradient_checkpointing(model)
        torch.manual_seed(4)
        sum(losses(model, pixel_values)).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    plain, checkpointed = gradients
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


def test_a_second_backward_pass_through_checkpoints_gives_the_same_gradients(
    llava_folder: Path, pixel_values: Tensor
) -> None:
    model = compressor(llava_folder, torch.float64, NO_DROPOUT).train()
    enable_gradient_checkpointing(model)
    loss = sum(losses(model, pixel_values))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    first, second = (torch.autograd.grad(loss, parameters, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_logit_scale_starts_as_asked_and_stays_below_its_maximum(model: DoubleForward) -> None:
    assert model.logit_scale.item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        model.log_logit_scale.fill_(math.log(1e4))
    model.clamp_logit_scale()
    assert model.logit_scale.item() == pytest.approx(100)
