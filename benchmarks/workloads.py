"""Workloads of the training step: a model and steps of samples, per preset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from components.costs.llava_shapes import SEVEN_B, llava_config
from components.drawn_world.ask import CAPTION_PROMPT
from components.drawn_world.converse import picture_turns
from components.drawn_world.describe import captions
from components.drawn_world.draw import draw_picture
from components.drawn_world.world import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIZES,
    WorldParams,
    draw_scene,
    scene_rng,
)
from components.methods.fwd2bot import DoubleForward, build_double_forward
from components.model.backbone import Source
from components.model.chat import ChatFormat
from components.model.families.llava import LlavaBackbone
from components.model.loading import load_backbone
from components.params import load_params
from components.presets import load_preset
from components.training.collate import TrainSample
from components.training.sampler import GroupedSampler, StepSamples
from components.training.training_settings import TrainParams
from flows.scenes import ScenesParams

ROOT = Path(__file__).parents[1]
TINY_BASE = ROOT / "models" / "tiny-llava"
NUM_DRAWN = 400  # pictures with a conversation, and as many with a caption


class Workload(NamedTuple):
    """Parameters, samples by index, and the groups of each step."""

    params: TrainParams
    samples: Mapping[int, TrainSample]
    steps: list[StepSamples]


def demo_workload(num_steps: int, contrastive_batch_size: int | None) -> Workload:
    """Make steps of the demo's default training, on freshly drawn scenes."""
    path = ROOT / "params.yaml"
    params = load_params("train", TrainParams, path)
    rows = draw_samples(load_params("scenes", ScenesParams, path))
    pairs = contrastive_batch_size or params.contrastive_batch_size
    return Workload(params, dict(enumerate(rows)), steps_of(rows, params, pairs, num_steps))


def steps_of(
    rows: Sequence[TrainSample], params: TrainParams, contrastive_batch_size: int, num_steps: int
) -> list[StepSamples]:
    """Draw the samples of the first steps."""
    lengths = []
    for row in rows:
        conversation = sum(len(turn["content"]) for turn in row.conversation)
        lengths.append(conversation or len(row.caption or ""))
    sampler = GroupedSampler(
        [bool(row.conversation) for row in rows],
        [row.caption is not None for row in rows],
        lengths,
        params.autoregressive_batch_size,
        contrastive_batch_size,
        params.length_window_steps,
        params.seed,
    )
    return [sampler.samples(step) for step in range(num_steps)]


def draw_samples(scenes: ScenesParams) -> list[TrainSample]:
    """Draw conversations about pictures, as `scenes` writes them, then pairs."""
    rows = []
    for index in range(NUM_DRAWN):
        rng = scene_rng(scenes.seed, "instruct", index)
        scene = draw_scene(rng, scenes.world, allow_held_out=False)
        turns = picture_turns(
            scene, rng, scenes.caption_fraction, scenes.min_questions, scenes.max_questions
        )
        rows.append(conversation_sample(f"conversation-{index}", draw_picture(scene), turns))
    for index in range(NUM_DRAWN):
        rows.append(caption_sample(scenes.world, scenes.seed, index))
    return rows


def conversation_sample(
    name: str, picture: Image.Image, turns: list[tuple[str, str]]
) -> TrainSample:
    """Build a conversation about a picture; a description in it is a caption, as in curation."""
    messages = []
    for number, (question, answer) in enumerate(turns):
        placeholder = "<image>\n" if number == 0 else ""
        messages += [
            {"role": "user", "content": placeholder + question},
            {"role": "assistant", "content": answer},
        ]
    caption = next((answer for question, answer in turns if question == CAPTION_PROMPT), None)
    return TrainSample(name, picture, messages, caption)


def caption_sample(world: WorldParams, seed: int, index: int) -> TrainSample:
    """Draw a picture with one of its captions."""
    rng = scene_rng(seed, "captions", index)
    scene = draw_scene(rng, world, allow_held_out=False)
    texts = captions(scene, rng)
    caption = texts[int(rng.integers(0, len(texts)))]
    return TrainSample(f"caption-{index}", draw_picture(scene), [], caption)


def demo_model(params: TrainParams) -> DoubleForward:
    """Load the demo's base with untrained adapters."""
    options = params.backbone
    backbone = load_backbone(
        str(TINY_BASE), None, options.torch_dtype, options.attention, options.pad_to_square
    )
    return build_double_forward(backbone, params.compressor, params.seed).train()


def large_workload(num_steps: int, contrastive_batch_size: int | None, spread: float) -> Workload:
    """Make steps of the 7B preset on one GPU: noise for pictures, words for texts.

    Conversations have 250 words in the mean; `spread` is the standard deviation of the logarithm of
    their length (0: all equal). Captions have 12 words. Every word is one to three tokens.
    """
    params = load_preset("train", TrainParams, "llava-1.5-7b", ROOT)
    pairs = contrastive_batch_size or 32
    sizes = {"autoregressive_batch_size": 32, "contrastive_batch_size": pairs}
    params = params.model_copy(update=sizes | {"num_workers": 1})

    # as many of each kind as the steps take
    rng = np.random.default_rng(0)
    count = num_steps * max(params.autoregressive_batch_size, params.contrastive_batch_size)
    lengths = 250 * np.exp(spread * rng.standard_normal(count) - spread**2 / 2)
    rows = [noise_sample(rng, f"conversation-{i}", round(lengths[i] / 2), 0) for i in range(count)]
    rows += [noise_sample(rng, f"caption-{i}", 0, 12) for i in range(count)]
    return Workload(params, dict(enumerate(rows)), steps_of(rows, params, pairs, num_steps))


def noise_sample(
    rng: np.random.Generator, name: str, words_per_turn: int, caption_words: int
) -> TrainSample:
    """Make a picture of noise with a question and an answer of so many words, or a caption."""
    picture = Image.fromarray(rng.integers(0, 256, (336, 336, 3), dtype=np.uint8))
    if caption_words:
        return TrainSample(name, picture, [], words(rng, caption_words))
    question, answer = words(rng, words_per_turn), words(rng, words_per_turn)
    return conversation_sample(name, picture, [(question, answer)])


def words(rng: np.random.Generator, count: int) -> str:
    vocabulary = (*COLOURS, *SHAPES, *SIZES, *BACKGROUNDS)
    return " ".join(vocabulary[i] for i in rng.integers(0, len(vocabulary), max(count, 1)))


def large_model(params: TrainParams) -> DoubleForward:
    """Build LLaVA-1.5-7B with random weights in bfloat16, on the GPU, with the demo's tokenizer."""
    processor = AutoProcessor.from_pretrained(TINY_BASE, backend="pil")
    processor.image_processor.size = {"shortest_edge": 336}
    processor.image_processor.crop_size = {"height": 336, "width": 336}
    config = llava_config(SEVEN_B)
    config.image_token_id = processor.tokenizer.convert_tokens_to_ids("<image>")

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        vlm = LlavaForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    vlm.set_attn_implementation(params.backbone.attention)

    processor.tokenizer.chat_template = processor.chat_template
    source = Source(TINY_BASE, "llava-1.5-7b-random", None)
    backbone = LlavaBackbone(
        vlm, ChatFormat(processor.tokenizer), processor.image_processor, source, True
    )
    return build_double_forward(backbone, params.compressor, params.seed).train()
