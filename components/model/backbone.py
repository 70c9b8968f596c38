"""The frozen base model: one small interface over a Hugging Face LLaVA.

Weights come from safetensors only and no code is ever fetched. The vision tower, the connector, the token embeddings
and the LM head stay as they are; what is trained hangs beside them (`adapters`, `summary_queries`).
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
)

from components.model.chat import IMAGE_PLACEHOLDER, VICUNA_V1_TEMPLATE
from components.params import Params

SUPPORTED = ("LlavaForConditionalGeneration",)


class BackboneParams(Params):
    """How to load the base model; flows nest it and hand its fields to `load_backbone`."""

    revision: str | None  # commit, tag or branch on the hub; null for a folder
    dtype: Literal["float32", "bfloat16"]  # of the frozen weights; what is trained stays float32
    attention: Literal["sdpa", "eager", "flash_attention_2"]
    pad_to_square: bool  # pad pictures to a square with the processor's mean colour (LLaVA-1.5) instead of cropping

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as PyTorch's object."""
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.dtype]


class Backbone(nn.Module):
    """A frozen LLaVA, taken apart into what the two passes need."""

    def __init__(
        self,
        vlm: LlavaForConditionalGeneration,
        processor: LlavaProcessor,
        folder: Path,
        name: str,
        revision: str | None,
        pad_to_square: bool,
    ) -> None:
        super().__init__()
        self.vlm = vlm.requires_grad_(False).eval()
        skip_unread_layers(vlm)
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.folder = folder
        self.name = name
        self.revision = revision
        self.pad_to_square = pad_to_square

    @property
    def language_model(self) -> PreTrainedModel:
        """The decoder without its head; its output is taken after the final norm."""
        return self.vlm.model.language_model

    @property
    def lm_head(self) -> nn.Module:
        return self.vlm.lm_head

    @property
    def image_token_id(self) -> int:
        return self.vlm.config.image_token_id

    @property
    def dim(self) -> int:
        return self.vlm.config.text_config.hidden_size

    @property
    def num_image_tokens(self) -> int:
        """Tokens the connector makes of one picture (576 for LLaVA-1.5)."""
        return num_image_tokens(self.vlm.config)

    @property
    def device(self) -> torch.device:
        return self.vlm.device

    @property
    def dtype(self) -> torch.dtype:
        return self.vlm.dtype

    @property
    def preprocessing(self) -> dict[str, bool | int | tuple[float, ...]]:
        """What is done to a picture before the vision tower; part of what stored tokens depend on."""
        image_processor = self.processor.image_processor
        return {
            "pad_to_square": self.pad_to_square,
            "image_size": self.vlm.config.vision_config.image_size,
            "image_mean": tuple(image_processor.image_mean),
            "image_std": tuple(image_processor.image_std),
        }

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of the stored base weights: independent of sharding, of the loaded dtype and of what is trained."""
        return weights_sha256(self.folder)

    def train(self, mode: bool = True) -> "Backbone":
        """Switch the language model (its LoRA dropout) only; the vision side never leaves evaluation."""
        super().train(mode)
        self.vlm.model.vision_tower.eval()
        return self

    def pixel_values(self, images: Sequence[Image.Image]) -> Tensor:
        """Preprocess RGB pictures of any size: (batch, 3, height, width), float32, on the CPU."""
        image_processor = self.processor.image_processor
        if self.pad_to_square:
            images = [pad_to_square(image, image_processor.image_mean) for image in images]
        return image_processor(list(images), return_tensors="pt").pixel_values

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Vision tower and connector: (batch, 3, height, width) -> image embeddings (batch, image tokens, dim).

        Without a graph as long as the connector is frozen: nothing in it asks for a gradient.
        """
        return self.connect(self.vision_features(pixel_values))

    def vision_features(self, pixel_values: Tensor) -> Tensor:
        """What the connector reads: (batch, 3, height, width) -> (batch, image tokens, vision dim)."""
        config = self.vlm.config
        tower = self.vlm.model.vision_tower
        states = tower(pixel_values.to(self.device, self.dtype), output_hidden_states=True).hidden_states
        first = 1 if config.vision_feature_select_strategy == "default" else 0  # without the class token
        read = config.vision_feature_layer
        return torch.cat([states[layer][:, first:] for layer in ([read] if isinstance(read, int) else read)], dim=-1)

    def connect(self, vision_features: Tensor) -> Tensor:
        """The connector: (batch, image tokens, vision dim) -> image embeddings (batch, image tokens, dim)."""
        return self.vlm.model.multi_modal_projector(vision_features.to(self.device, self.dtype)).to(self.dtype)

    def compress_in_tower(self, pixel_values: Tensor, queries: Tensor) -> Tensor:
        """Let the vision tower read queries behind the patches: (batch, n, vision dim) -> (batch, n, dim).

        The connector takes the tower's outputs at the queries into the language model's input space.
        """
        tower = self.vlm.model.vision_tower
        patches = tower.embeddings(pixel_values.to(self.device, self.dtype))
        hidden = tower.pre_layrnorm(torch.cat([patches, queries.to(self.dtype)], dim=1))
        for layer in tower.encoder.layers[: num_read_layers(self.vlm)]:
            hidden = layer(hidden, attention_mask=None)
        return self.vlm.model.multi_modal_projector(hidden[:, -queries.shape[1] :]).to(self.dtype)

    def train_decoder(self) -> nn.Module:
        """Let the decoder layers and the final norm learn, themselves; returns the whole model."""
        self.language_model.layers.requires_grad_(True)
        self.language_model.norm.requires_grad_(True)
        return self.vlm

    def train_connector(self) -> None:
        """Let the connector learn, in float32."""
        connector = self.vlm.model.multi_modal_projector.float().requires_grad_(True)
        connector.register_forward_pre_hook(lambda _, features: tuple(part.float() for part in features))

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings: (batch, tokens) -> (batch, tokens, dim)."""
        return self.vlm.get_input_embeddings()(input_ids)

    def embed_chat(self, input_ids: Tensor, visual_tokens: Tensor | None) -> Tensor:
        """Token embeddings in which visual tokens stand at the image placeholders: (batch, tokens, dim).

        visual_tokens: (…, dim) in the order of the placeholders, or None when no row has any.
        """
        embeddings = self.embed(input_ids)
        is_placeholder = input_ids == self.image_token_id
        num_placeholders = int(is_placeholder.sum())
        num_visual = 0 if visual_tokens is None else visual_tokens.shape[:-1].numel()
        if num_placeholders != num_visual:
            raise ValueError(
                f"{num_placeholders} image placeholders for {num_visual} visual tokens; encode the chat with the "
                "number of visual tokens that its pictures have"
            )
        if visual_tokens is None:
            return embeddings
        return embeddings.masked_scatter(is_placeholder[..., None], visual_tokens.to(embeddings.dtype))


def load_backbone(
    model: str, revision: str | None, dtype: torch.dtype, attention: str, pad_to_square: bool
) -> Backbone:
    """Load a LLaVA from a folder or by its hub id; ValueError for any other architecture."""
    folder = Path(model) if Path(model).is_dir() else download(model, revision)
    architectures = AutoConfig.from_pretrained(folder).architectures or []
    if not set(architectures) & set(SUPPORTED):
        raise ValueError(
            f"{model} is a {' / '.join(architectures) or 'nameless class'}; supported: {', '.join(SUPPORTED)}"
        )
    vlm = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, use_safetensors=True
    )
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    tokenizer = processor.tokenizer
    tokenizer.chat_template = tokenizer.chat_template or processor.chat_template or VICUNA_V1_TEMPLATE
    if tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER) != vlm.config.image_token_id:
        raise ValueError(
            f"{model}: the tokenizer's {IMAGE_PLACEHOLDER} is not the model's image token; use its own processor"
        )
    name = Path(model).resolve().name if Path(model).is_dir() else model
    return Backbone(vlm, processor, folder, name, revision, pad_to_square)


def num_image_tokens(config: Any) -> int:
    """Of a picture, by the configuration of a LLaVA: its patches, and the class token if the connector reads it."""
    vision = config.vision_config
    return (vision.image_size // vision.patch_size) ** 2 + (config.vision_feature_select_strategy == "full")


def skip_unread_layers(vlm: LlavaForConditionalGeneration) -> None:
    """Let the layers of the vision tower above the last one that the connector reads pass on what they get."""
    for layer in vlm.model.vision_tower.encoder.layers[num_read_layers(vlm) :]:
        layer.forward = pass_on


def num_read_layers(vlm: LlavaForConditionalGeneration) -> int:
    """Layers of the vision tower up to the highest that the connector reads."""
    num_states = len(vlm.model.vision_tower.encoder.layers) + 1
    read = vlm.config.vision_feature_layer
    return max(index % num_states for index in ([read] if isinstance(read, int) else read))


def pass_on(hidden_states: Tensor, *_: object, **__: object) -> Tensor:
    """The identity, in place of a layer whose output nobody reads."""
    return hidden_states


def download(model: str, revision: str | None) -> Path:
    """Fetch a model from the hub, without anything that could hold code."""
    patterns = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
    return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))


def pad_to_square(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """Centre an RGB picture on a square of the mean colour (`mean` in 0..1), as LLaVA-1.5 does."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(channel * 255) for channel in mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def weights_sha256(folder: Path) -> str:
    """Hash the safetensors in a folder: name, type, shape and bytes of every tensor, in the order of the names."""
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            files |= dict.fromkeys(tensors.keys(), path)
    digest = hashlib.sha256()
    for name in sorted(files):
        with safe_open(files[name], "pt") as tensors:
            tensor = tensors.get_tensor(name)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
