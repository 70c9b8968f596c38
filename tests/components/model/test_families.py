"""Every family as a small random model: read, compressed, trained, saved, loaded and asked.

transformers' own processors and `generate` are the reference. Some of these processors want a video
processor, which needs torchvision; for pictures it is not used, so the check is left out.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from torch import Tensor
from transformers.models.smolvlm import processing_smolvlm
from transformers.processing_utils import ProcessorMixin

from components.methods.checkpoint import load_compressor, save_compressor
from components.methods.fwd2bot import DoubleForward, build_double_forward
from components.model.adapters import COMPRESSION, GENERATION
from components.model.backbone import Backbone
from components.model.chat import encode_conversation, encode_prompt, encode_text
from components.model.generation import base_answer, left_pad
from components.model.loading import load_backbone
from components.model.prepared import merge
from components.model.segments import join, text_segment
from components.training.packing import Block, Chat, pack
from tests.components.model.families import FAMILIES, save_family
from tests.components.model.tiny import COMPRESSOR

NEW_TOKENS = 8
K = COMPRESSOR.num_summary_tokens
SIZES = ((48, 48), (40, 90), (100, 30), (33, 64))  # pixels: height, width
QUESTIONS = [
    "what is it?",
    "how many small circles are there in the picture?",
    "is it red?",
    "describe the image.",
]
PROCESSORS: dict[str, Callable[[Any, Any], Any]] = {
    "llava": lambda images, tokenizer: transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ),
    "llava_next": lambda images, tokenizer: transformers.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ),
    "llava_onevision": lambda images, tokenizer: transformers.LlavaOnevisionProcessor(
        images, tokenizer, num_image_tokens=16, vision_feature_select_strategy="full"
    ),
    "qwen2_5_vl": transformers.Qwen2_5_VLProcessor,
    "internvl": lambda images, tokenizer: transformers.InternVLProcessor(
        images, tokenizer, image_seq_length=4
    ),
    "idefics3": lambda images, tokenizer: transformers.Idefics3Processor(
        images, tokenizer, image_seq_len=4
    ),
    "smolvlm": lambda images, tokenizer: transformers.SmolVLMProcessor(
        images, tokenizer, None, image_seq_len=4
    ),
    "gemma3": lambda images, tokenizer: transformers.Gemma3Processor(
        images, tokenizer, image_seq_length=4
    ),
    "instructblip": lambda images, tokenizer: transformers.InstructBlipProcessor(
        images, tokenizer, tokenizer, num_query_tokens=5
    ),
}
SPECIAL_NAMES = {  # attributes that published tokenizers of a family have
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    "gemma3": {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    },
    "qwen2_5_vl": {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    "llava_onevision": {"image_token": "<image>", "video_token": "<video>"},
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(family)
    save_family(family, path)
    return path


def load(folder: Path) -> Backbone:
    return load_backbone(str(folder), None, torch.float32, "sdpa", pad_to_square=False)


def build(folder: Path) -> DoubleForward:
    """A compressor whose adapters say something, unlike new ones."""
    model = build_double_forward(load(folder), COMPRESSOR, seed=0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    return load(folder)


@pytest.fixture
def model(folder: Path) -> DoubleForward:
    return build(folder).eval()


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]


@pytest.fixture
def processor(family: str, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Transformers' own."""
    monkeypatch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda *_: None)
    monkeypatch.setattr(processing_smolvlm, "num2words", str)  # it says how many frames a video has
    tokenizer = backbone.tokenizer
    for name, token in SPECIAL_NAMES.get(family, {}).items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    return PROCESSORS[family](backbone.image_processor, tokenizer)


def plain_inputs(
    backbone: Backbone, processor: Any, picture: Image.Image, text: str
) -> dict[str, Tensor]:
    """Prepare a picture and a text with its mark by transformers; the Q-Former's text is ours."""
    special = {} if backbone.tokenizer.bos_token not in text else {"add_special_tokens": False}
    if isinstance(processor, transformers.InstructBlipProcessor):
        inputs = processor(
            images=picture, text=text.split(backbone.tokenizer.bos_token)[-1], return_tensors="pt"
        )
        instruction = {
            f"qformer_{name}": value
            for name, value in backbone.instruction.items()
            if "mask" in name or name == "input_ids"
        }
        return dict(inputs) | instruction
    return dict(processor(images=[picture], text=[text], return_tensors="pt", **special))


@torch.no_grad()
def test_all_image_tokens_give_what_the_untouched_model_generates(
    backbone: Backbone, processor: Any, pictures: list[Image.Image], folder: Path
) -> None:
    """Pictures and questions of different sizes in one batch, against each by itself."""
    expected = []
    for picture, question in zip(pictures, QUESTIONS, strict=True):
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = backbone.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        inputs = plain_inputs(backbone, processor, picture, text)
        output = backbone.vlm.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        new = output[0, inputs["input_ids"].shape[1] :].tolist()
        expected.append(
            new[: new.index(backbone.tokenizer.eos_token_id)]
            if backbone.tokenizer.eos_token_id in new
            else new
        )
    read = backbone.encode_images(backbone.prepare(pictures))
    prompts = [
        encode_prompt(backbone.chat, question, length)
        for question, length in zip(QUESTIONS, read.lengths, strict=True)
    ]
    assert base_answer(load(folder), read, prompts, NEW_TOKENS) == expected
    assert len({tuple(row) for row in expected}) > 1


@torch.no_grad()
def test_the_compression_pass_reads_a_picture_as_the_model_does(
    model: DoubleForward, processor: Any, pictures: list[Image.Image], family: str
) -> None:
    """Positions and masks of [BOS; picture; prompt], without adapter, against the whole model's."""
    backbone = model.backbone
    prompt = "describe the picture."
    bos = backbone.tokenizer.bos_token
    mark = backbone.markup.template_image
    text = f"{mark}{bos}{prompt}" if family == "instructblip" else f"{bos}{mark}{prompt}"
    words = text_segment(backbone.embed(torch.tensor([encode_text(backbone.tokenizer, prompt)])))
    for picture in pictures:
        inputs = plain_inputs(backbone, processor, picture, text)
        expected = backbone.vlm(**inputs, output_hidden_states=True)
        states = (
            expected.language_model_outputs.hidden_states
            if family == "instructblip"
            else expected.hidden_states
        )
        framed = backbone.framed(backbone.encode_images(backbone.prepare([picture])))
        parts = (
            [*framed, model.bos(1), words]
            if family == "instructblip"
            else [model.bos(1), *framed, words]
        )
        found = backbone.language_model(
            **backbone.arguments(join(parts)), use_cache=False
        ).last_hidden_state
        torch.testing.assert_close(found, states[-1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_picture_compresses_alone_as_in_a_batch(
    model: DoubleForward, pictures: list[Image.Image]
) -> None:
    backbone = model.backbone
    alone = [backbone.prepare([picture]) for picture in pictures]
    together = model.compress_pictures(backbone.prepare(pictures))
    assert together.shape == (len(pictures), K, backbone.dim)
    torch.testing.assert_close(
        model.compress_pictures(merge(alone)), together, rtol=1e-4, atol=1e-4
    )
    found = torch.cat([model.compress_pictures(picture) for picture in alone])
    torch.testing.assert_close(found, together, rtol=1e-4, atol=1e-4)
    assert (found[0] - found[1]).abs().max() > 0.01


def test_both_losses_reach_both_adapters_and_the_queries(
    folder: Path, pictures: list[Image.Image]
) -> None:
    model = build(folder)
    backbone = model.backbone
    summary_tokens = model.compress_pictures(backbone.prepare(pictures))
    turns = [
        {"role": "user", "content": "<image>\nwhat is it?"},
        {"role": "assistant", "content": "a red circle"},
    ]
    input_ids, labels = (
        torch.tensor([row] * len(pictures)) for row in encode_conversation(backbone.chat, turns, K)
    )
    assert backbone.tokenizer.decode(labels[0][labels[0] >= 0]).strip().startswith("a red circle")
    hidden = model.generation_hidden(summary_tokens, input_ids, torch.ones_like(input_ids))
    autoregressive = F.cross_entropy(
        backbone.lm_head(hidden)[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    )
    captions = left_pad(
        [encode_text(backbone.tokenizer, text) for text in QUESTIONS], backbone.device
    )
    texts = model.embedding(model.compress_texts(*captions))
    logits = model.logit_scale * model.embedding(summary_tokens) @ texts.T
    contrastive = F.cross_entropy(logits, torch.arange(len(pictures)))
    for loss, adapters in (
        (autoregressive, (COMPRESSION, GENERATION)),
        (contrastive, (COMPRESSION,)),
    ):
        model.zero_grad()
        loss.backward(retain_graph=True)
        found = {
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and parameter.grad.any()
        }
        for adapter in adapters:
            assert sum(adapter in name.split(".") for name in found) >= 2 * 7 * 2
        assert any("queries" in name for name in found)
        assert not any(
            adapter in name
            for name in found
            for adapter in {COMPRESSION, GENERATION} - set(adapters)
        )
        assert all("lora_" in name or "queries" in name or "logit" in name for name in found)


@torch.no_grad()
def test_what_is_saved_compresses_and_answers_the_same(
    model: DoubleForward, folder: Path, pictures: list[Image.Image], tmp_path: Path
) -> None:
    save_compressor(model, tmp_path, {})
    loaded = load_compressor(tmp_path, str(folder), torch.device("cpu"), torch.float32)
    prepared = model.backbone.prepare(pictures)
    stored = model.compress_pictures(prepared)
    assert torch.equal(loaded.compress_pictures(prepared), stored)
    prompts = [encode_prompt(loaded.backbone.chat, question, K) for question in QUESTIONS]
    assert loaded.answer(stored, prompts, NEW_TOKENS) == model.answer(stored, prompts, NEW_TOKENS)


def test_only_the_decoder_is_in_training_mode(folder: Path) -> None:
    model = build(folder).train()
    decoder = set(model.backbone.language_model.modules())
    inside = [module for module in model.backbone.vlm.modules() if module in decoder]
    assert all(module.training for module in inside)
    vision = [module for part in model.backbone.vision_modules for module in part.modules()]
    assert len(vision) > 20
    assert not any(module.training for module in vision)


def test_a_trained_connector_gets_a_gradient(folder: Path, pictures: list[Image.Image]) -> None:
    params = COMPRESSOR.model_copy(update={"connector": "trained"})
    model = build_double_forward(load(folder), params, seed=0)
    model.compress_pictures(model.backbone.prepare(pictures[:2])).square().sum().backward()
    assert all(parameter.grad.any() for parameter in model.backbone.connector.parameters())
    outside = {
        name
        for name, p in model.backbone.named_parameters()
        if p.requires_grad and "lora_" not in name
    }
    assert len(outside) == len(list(model.backbone.connector.parameters()))


def test_packed_questions_read_as_each_by_itself(
    model: DoubleForward, pictures: list[Image.Image]
) -> None:
    """A row with a common beginning and two questions hidden from each other, as packed."""
    backbone = model.backbone
    turns = [
        [{"role": "user", "content": f"<image>\n{text}"}, {"role": "assistant", "content": "red"}]
        for text in QUESTIONS[:2]
    ]
    rows = [encode_conversation(backbone.chat, turn, K) for turn in turns]
    start = max(i for i, token in enumerate(rows[0][0]) if token == backbone.image_token_id) + 1
    blocks = [Block(ids[start:], labels[start:]) for ids, labels in rows]
    packed = pack([Chat(rows[0][0][:start], blocks)], 0, None)
    summary_tokens = model.compress_pictures(backbone.prepare(pictures[:1]))
    with torch.no_grad():
        together = model.generation_hidden(
            summary_tokens, packed.input_ids, packed.attention_mask, packed.position_ids
        )
        at = start
        for ids, _ in rows:
            ids = torch.tensor([ids])
            alone = model.generation_hidden(summary_tokens, ids, torch.ones_like(ids))
            length = ids.shape[1] - start
            torch.testing.assert_close(
                together[0, at : at + length], alone[0, start:], rtol=1e-4, atol=1e-4
            )
            at += length
