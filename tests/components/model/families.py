"""Each supported family as a small random model of the genuine class, saved as if published.

The tokenizer holds the special tokens under their published names; the chat templates have the
published layouts.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TEXTS = [
    "what is in the picture? a large red circle above the small blue star.",
    "how many are there? describe the image in detail. is it left of it? "
    "USER: ASSISTANT: <image>\n",
]
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
WIDTH = 32
TEXT = {  # of every decoder
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
}
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}IMAGE{% endif %}{% endfor %}"
    "{% for item in message['content'] %}"
    "{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for item in message['content'] %}{% if item['type'] == 'text' %}{{ item['text'] }}"
    "{% elif item['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' }}"
    "{{ ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% else %}{{ item['text'] | trim }}{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


class Family(NamedTuple):
    """The parts of a small model of a family."""

    specials: tuple[str, ...]
    chat_template: str | None
    build: Callable[[Any], tuple[Any, Any]]  # tokenizer -> model, image processor


def build_tokenizer(specials: tuple[str, ...], chat_template: str | None) -> Any:
    """A byte-level tokenizer that puts BOS before a text, as Llama's does."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    names = [PAD, BOS, EOS, *specials]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=names, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator(TEXTS * 3, trainer)
    bpe.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, bpe.token_to_id(BOS))]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=chat_template,
    )


def ids(tokenizer: Any, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


def common(tokenizer: Any) -> dict[str, int]:
    return {
        "bos_token_id": ids(tokenizer, BOS),
        "eos_token_id": ids(tokenizer, EOS),
        "pad_token_id": ids(tokenizer, PAD),
    }


def llama(tokenizer: Any) -> Any:
    return transformers.LlamaConfig(**TEXT, **common(tokenizer), vocab_size=len(tokenizer))


def qwen2(tokenizer: Any) -> Any:
    return transformers.Qwen2Config(**TEXT, **common(tokenizer), vocab_size=len(tokenizer))


def clip(size: int, **others: Any) -> Any:
    return transformers.CLIPVisionConfig(**VISION, image_size=size, patch_size=8, **others)


def siglip(size: int) -> Any:
    return transformers.SiglipVisionConfig(
        **VISION, image_size=size, patch_size=8, vision_use_head=False
    )


def llava(tokenizer: Any) -> tuple[Any, Any]:
    config = transformers.LlavaConfig(
        vision_config=clip(48),
        text_config=llama(tokenizer),
        image_token_id=ids(tokenizer, "<image>"),
    )
    sizes = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    return transformers.LlavaForConditionalGeneration(config), transformers.CLIPImageProcessorPil(
        **sizes
    )


def llava_next(tokenizer: Any) -> tuple[Any, Any]:
    pinpoints = [[32, 64], [64, 32], [64, 64]]
    config = transformers.LlavaNextConfig(
        vision_config=clip(32),
        text_config=llama(tokenizer),
        image_token_id=ids(tokenizer, "<image>"),
        image_grid_pinpoints=pinpoints,
    )
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    image_processor = transformers.LlavaNextImageProcessorPil(
        **sizes, image_grid_pinpoints=pinpoints
    )
    return transformers.LlavaNextForConditionalGeneration(config), image_processor


def llava_onevision(tokenizer: Any) -> tuple[Any, Any]:
    pinpoints = [[32 * rows, 32 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    config = transformers.LlavaOnevisionConfig(
        vision_config=siglip(32),
        text_config=qwen2(tokenizer),
        image_token_id=ids(tokenizer, "<image>"),
        image_grid_pinpoints=pinpoints,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    size = {"height": 32, "width": 32}
    image_processor = transformers.LlavaOnevisionImageProcessorPil(
        size=size, image_grid_pinpoints=pinpoints
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), image_processor


def qwen2_5_vl(tokenizer: Any) -> tuple[Any, Any]:
    text = TEXT | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    }
    vision = {
        "depth": 3,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
    }
    config = transformers.Qwen2_5_VLConfig(
        text_config=text | common(tokenizer) | {"vocab_size": len(tokenizer)},
        vision_config=vision
        | {
            "patch_size": 8,
            "window_size": 32,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.2,
        },
        image_token_id=ids(tokenizer, "<|image_pad|>"),
        vision_start_token_id=ids(tokenizer, "<|vision_start|>"),
        vision_end_token_id=ids(tokenizer, "<|vision_end|>"),
        video_token_id=ids(tokenizer, "<|video_pad|>"),
        tie_word_embeddings=False,
    )
    image_processor = transformers.Qwen2VLImageProcessorPil(
        patch_size=8, size={"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config), image_processor


def internvl(tokenizer: Any) -> tuple[Any, Any]:
    vision = transformers.InternVLVisionConfig(**VISION, image_size=[32, 32], patch_size=[8, 8])
    config = transformers.InternVLConfig(
        vision_config=vision,
        text_config=qwen2(tokenizer),
        image_token_id=ids(tokenizer, "<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    image_processor = transformers.GotOcr2ImageProcessorPil(
        size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4
    )
    return transformers.InternVLForConditionalGeneration(config), image_processor


def idefics3_config(tokenizer: Any, config_class: Any, vision_class: Any) -> Any:
    vision = vision_class(**VISION, image_size=32, patch_size=8)
    text = llama(tokenizer).to_dict()
    return config_class(
        vision_config=vision.to_dict(),
        text_config=text,
        image_token_id=ids(tokenizer, "<image>"),
        scale_factor=2,
        tie_word_embeddings=False,
        pad_token_id=ids(tokenizer, PAD),
    )


def idefics3(tokenizer: Any) -> tuple[Any, Any]:
    config = idefics3_config(
        tokenizer, transformers.Idefics3Config, transformers.Idefics3VisionConfig
    )
    image_processor = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 96}, max_image_size={"longest_edge": 32}
    )
    return transformers.Idefics3ForConditionalGeneration(config), image_processor


def smolvlm(tokenizer: Any) -> tuple[Any, Any]:
    config = idefics3_config(
        tokenizer, transformers.SmolVLMConfig, transformers.SmolVLMVisionConfig
    )
    image_processor = transformers.SmolVLMImageProcessorPil(
        size={"longest_edge": 96}, max_image_size={"longest_edge": 32}
    )
    return transformers.SmolVLMForConditionalGeneration(config), image_processor


def gemma3(tokenizer: Any) -> tuple[Any, Any]:
    text = transformers.Gemma3TextConfig(
        **TEXT,
        **common(tokenizer),
        vocab_size=len(tokenizer),
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=8,
    )
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config=siglip(32),
        mm_tokens_per_image=4,
        image_token_id=ids(tokenizer, "<image_soft_token>"),
        boi_token_index=ids(tokenizer, "<start_of_image>"),
        eoi_token_index=ids(tokenizer, "<end_of_image>"),
        tie_word_embeddings=False,
    )
    image_processor = transformers.Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    model = transformers.Gemma3ForConditionalGeneration(config)
    # else zeros
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)
    return model, image_processor


def instructblip(tokenizer: Any) -> tuple[Any, Any]:
    vision = transformers.InstructBlipVisionConfig(**VISION, image_size=32, patch_size=8)
    qformer = transformers.InstructBlipQFormerConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        encoder_hidden_size=24,
        initializer_range=0.2,
    )
    config = transformers.InstructBlipConfig(
        vision_config=vision,
        qformer_config=qformer,
        text_config=llama(tokenizer),
        num_query_tokens=5,
        image_token_id=ids(tokenizer, "<image>"),
    )
    return (
        transformers.InstructBlipForConditionalGeneration(config),
        transformers.BlipImageProcessorPil(size={"height": 32, "width": 32}),
    )


ROWS_AND_COLUMNS = tuple(
    f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)
)
EDGES = (
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
    "<|im_start|>",
)
IM = ("<|im_start|>", "<|im_end|>")
FAMILIES = {
    "llava": Family(("<image>",), None, llava),
    "llava_next": Family(("<image>",), None, llava_next),
    "llava_onevision": Family(
        ("<image>", "<video>", *IM), CHATML.replace("IMAGE", "<image>\n"), llava_onevision
    ),
    "qwen2_5_vl": Family(
        ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", *IM),
        CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
        qwen2_5_vl,
    ),
    "internvl": Family(
        ("<IMG_CONTEXT>", "<img>", "</img>", "<video>", *IM),
        CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
        internvl,
    ),
    "idefics3": Family((*EDGES, *ROWS_AND_COLUMNS), IDEFICS, idefics3),
    "smolvlm": Family((*EDGES, *ROWS_AND_COLUMNS), IDEFICS, smolvlm),
    "gemma3": Family(
        (
            "<image_soft_token>",
            "<start_of_image>",
            "<end_of_image>",
            "<start_of_turn>",
            "<end_of_turn>",
        ),
        GEMMA,
        gemma3,
    ),
    "instructblip": Family(("<image>",), None, instructblip),
}


def save_family(name: str, folder: Path) -> None:
    """Write the small model of a family into a folder."""
    family = FAMILIES[name]
    tokenizer = build_tokenizer(family.specials, family.chat_template)
    torch.manual_seed(0)
    model, image_processor = family.build(tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    if name == "instructblip":
        tokenizer.save_pretrained(folder / "qformer_tokenizer")
