"""Tiny random checkpoints of all classes of dual encoders, in folders like those on the hub."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from tests.components.model.tiny import TEXTS

LAYERS = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
PIXELS = {"image_size": 32, "patch_size": 16}
NAMES = ("CLIPModel", "SiglipModel", "BlipForImageTextRetrieval", "Blip2ForImageTextRetrieval")
DIMS = dict(zip(NAMES, (12, 16, 10, 10), strict=True))
LONGEST = dict(zip(NAMES, (18, 14, 24, 24), strict=True))


def save_checkpoint(name: str, folder: Path, seed: int = 0) -> Path:
    """Weights, tokenizer and image processor of a tiny model."""
    tokenizer = TOKENIZERS[name]()
    torch.manual_seed(seed)
    model = MODELS[name](tokenizer)
    with torch.no_grad():
        # biases, queries and projections that start as zeros too
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        if hasattr(model, "logit_scale"):
            model.logit_scale.fill_(3.0)
    for part in (model, tokenizer, PROCESSORS[name]):
        part.save_pretrained(folder)
    return folder


def tokenizer(start: str | None, end: str, pad: str) -> PreTrainedTokenizerFast:
    """Bytes and their pairs; the special tokens have the highest ids, as CLIP's do."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    )
    specials = list(dict.fromkeys(token for token in (start, pad, end) if token))
    bpe.add_special_tokens(specials)
    around = [(token, bpe.token_to_id(token)) for token in (start, end) if token]
    template = f"{start} $A {end}" if start else f"$A {end}"
    bpe.post_processor = processors.TemplateProcessing(single=template, special_tokens=around)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=start, eos_token=end, pad_token=pad
    )


def clip(words: Any) -> PreTrainedModel:
    text = {
        **LAYERS,
        "vocab_size": len(words),
        "max_position_embeddings": 18,
        "eos_token_id": words.eos_token_id,
    }
    return CLIPModel(
        CLIPConfig(text_config=text, vision_config={**LAYERS, **PIXELS}, projection_dim=12)
    )


def siglip(words: Any) -> PreTrainedModel:
    text = {
        **LAYERS,
        "vocab_size": len(words),
        "max_position_embeddings": 14,
        "projection_size": 16,
    }
    text["pad_token_id"] = 0  # unlike the tokenizer's, as on the hub
    return SiglipModel(SiglipConfig(text_config=text, vision_config={**LAYERS, **PIXELS}))


def blip(words: Any) -> PreTrainedModel:
    text = {
        **LAYERS,
        "vocab_size": len(words),
        "max_position_embeddings": 24,
        "encoder_hidden_size": 16,
    }
    text |= {
        "bos_token_id": 0,
        "pad_token_id": words.pad_token_id,
        "eos_token_id": 1,
        "sep_token_id": 1,
    }
    text |= {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    config = BlipConfig(
        text_config=text, vision_config={**LAYERS, **PIXELS}, image_text_hidden_size=10
    )
    return BlipForImageTextRetrieval(config)


def blip_2(words: Any) -> PreTrainedModel:
    qformer = {
        **LAYERS,
        "vocab_size": len(words),
        "max_position_embeddings": 24,
        "encoder_hidden_size": 16,
    }
    qformer |= {
        "pad_token_id": words.pad_token_id,
        "use_qformer_text_input": True,
        "cross_attention_frequency": 1,
    }
    qformer |= {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    vision = {**LAYERS, **PIXELS}
    config = Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        num_query_tokens=3,
        image_text_hidden_size=10,
        image_token_index=None,
    )
    return Blip2ForImageTextRetrieval(config)


MODELS = dict(zip(NAMES, (clip, siglip, blip, blip_2), strict=True))
TOKENIZERS = {
    "CLIPModel": lambda: tokenizer("<|startoftext|>", "<|endoftext|>", "<|endoftext|>"),
    "SiglipModel": lambda: tokenizer(None, "</s>", "<pad>"),
    "BlipForImageTextRetrieval": lambda: tokenizer("[CLS]", "[SEP]", "[PAD]"),
    "Blip2ForImageTextRetrieval": lambda: tokenizer("[CLS]", "[SEP]", "[PAD]"),
}
SQUARE = {"height": 32, "width": 32}
PROCESSORS: dict[str, Any] = {
    "CLIPModel": CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE),
    "SiglipModel": SiglipImageProcessorPil(size=SQUARE),
    "BlipForImageTextRetrieval": BlipImageProcessorPil(size=SQUARE),
    "Blip2ForImageTextRetrieval": BlipImageProcessorPil(size=SQUARE),
}
