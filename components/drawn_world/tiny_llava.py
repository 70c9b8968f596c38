"""A LLaVA small enough for a laptop: Hugging Face's classes, random weights, an own tokenizer.

It is what the demo pretrains and what the tests run on; nothing else in the project knows that it
is small.
"""

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from components.model.chat import VICUNA_V1_TEMPLATE
from components.model.positions import sincos_positions
from components.params import Params

BOS, EOS, PAD, IMAGE = "<s>", "</s>", "<pad>", "<image>"


class TinyLlavaParams(Params):
    """Sizes of the model; the connector reads the tower's last layer but one."""

    image_size: int  # pixels, side of the square the picture is resized to
    patch_size: int  # pixels, side of one image token
    vision_hidden_size: int  # divisible by 4 (two axes, sine and cosine)
    vision_num_layers: int
    vision_num_heads: int
    position_amplitude: float  # of the sine and cosine position embeddings of the vision tower
    text_hidden_size: int
    text_intermediate_size: int
    text_num_layers: int
    text_num_heads: int
    text_initializer_range: float  # standard deviation; Llama's 0.02 suits widths of thousands
    vocab_size: int  # tokens at most; at least 260 (all bytes and four special tokens)


def build_tiny_llava(
    params: TinyLlavaParams, texts: Iterable[str], seed: int
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Build an untrained float32 model and its processor; the tokenizer is trained on `texts`."""
    tokenizer = build_tokenizer(texts, params.vocab_size)
    # The caller's random state stays as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(build_config(params, tokenizer))

    # CLIP learns its positions from millions of pictures; here they start as sine and cosine.
    tower = model.model.vision_tower
    positions = sincos_positions(params.image_size // params.patch_size, params.vision_hidden_size)
    with torch.no_grad():
        tower.embeddings.position_embedding.weight.copy_(params.position_amplitude * positions)

    # Decoding ends and pads with the tokens of this tokenizer.
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.generation_config, token, getattr(tokenizer, token))
    return model.eval(), build_processor(params, tokenizer)


def build_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer: every text has an encoding, no token is unknown."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)

    # As Llama's: a text begins with <s>, and is padded on the left for decoding.
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bpe.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
    )


def build_config(params: TinyLlavaParams, tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """Describe the architecture of LLaVA-1.5 with other numbers."""
    vision = CLIPVisionConfig(
        hidden_size=params.vision_hidden_size,
        intermediate_size=4 * params.vision_hidden_size,
        projection_dim=params.vision_hidden_size,
        num_hidden_layers=params.vision_num_layers,
        num_attention_heads=params.vision_num_heads,
        image_size=params.image_size,
        patch_size=params.patch_size,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=params.text_hidden_size,
        intermediate_size=params.text_intermediate_size,
        num_hidden_layers=params.text_num_layers,
        num_attention_heads=params.text_num_heads,
        num_key_value_heads=params.text_num_heads,
        initializer_range=params.text_initializer_range,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )

    # The connector reads the last layer but one, as in LLaVA-1.5.
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.get_vocab()[IMAGE],
        image_seq_length=(params.image_size // params.patch_size) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def build_processor(params: TinyLlavaParams, tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Build a processor that resizes the short side, crops the centre, and scales to [-1, 1]."""
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": params.image_size},
        crop_size={"height": params.image_size, "width": params.image_size},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )

    # One additional image token: CLIP's class token, which the connector leaves out.
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=params.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA_V1_TEMPLATE,
    )
