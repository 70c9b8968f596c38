"""The frozen base model: one small interface over transformers' vision-language models.

A family of models (`families/`, one file each) says how it prepares a picture, what its language
model then reads of it, and how a picture stands in a chat. The vision side, the token embeddings
and the LM head stay as they are; what is trained hangs beside them (`adapters`, `summary_queries`).
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from components.model.chat import ChatFormat, Markup
from components.model.model_files import whole_safetensors
from components.model.prepared import PreparedPictures
from components.model.segments import Segment, insert, picture_segment, text_segment
from components.model.settings_identity import settings_sha256

Preprocessing = dict[str, bool | int | str | tuple[float, ...]]


class Source(NamedTuple):
    """Where a base model comes from."""

    folder: Path
    name: str  # hub id, or the name of the folder
    revision: str | None


class Backbone(nn.Module):
    """A frozen vision-language model, taken apart into what the two passes need. Families override what differs."""

    architectures: ClassVar[tuple[str, ...]]  # that the family takes, as config.json names them
    markup: ClassVar[Markup] = Markup()  # of a picture in a chat
    # outputs of the image processor that are read
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)

    def __init__(
        self,
        vlm: PreTrainedModel,
        chat: ChatFormat,
        image_processor: Any,
        source: Source,
        pad_to_square: bool,
    ) -> None:
        super().__init__()
        self.vlm: Any = vlm.requires_grad_(False).eval()
        self.chat = chat
        self.image_processor = image_processor
        self.source = source
        self.pad_to_square = pad_to_square

    # How a family prepares a picture and what its language model reads of it.

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures:
        """Preprocess RGB pictures of any size, on the CPU."""
        output = self.image_processor(self.squared(images), return_tensors="pt")
        return PreparedPictures(len(images), {name: output[name] for name in self.image_inputs})

    def picture_tokens(self, pictures: PreparedPictures) -> list[Tensor]:
        """Vision side and connector: (image tokens, dim) of each picture."""
        return list(self.vlm.model.get_image_features(**pictures.tensors).pooler_output)

    def picture_positions(self, pictures: PreparedPictures) -> list[Tensor] | None:
        """Positions (axes, image tokens) of each picture, from 0; None if they are ordinary ones."""
        return None

    def attention(self, inputs: Segment, mask: Tensor) -> Any:
        """What the language model takes as its attention mask to read a segment.

        `mask`: (rows, tokens), 1 where there is a token, or (rows, 1, tokens, tokens), True where
        one attends.
        """
        return mask

    @property
    def language_model(self) -> Any:
        """The decoder without its head; its output is taken after the final norm."""
        return self.vlm.model.language_model

    @property
    def lm_head(self) -> nn.Module:
        return self.vlm.lm_head

    @property
    def connector(self) -> nn.Module:
        """Between vision tower and language model."""
        return self.vlm.model.multi_modal_projector

    # The same for all.

    @property
    def tokenizer(self) -> Any:
        return self.chat.tokenizer

    @property
    def image_token_id(self) -> int:
        return self.vlm.config.image_token_id

    @property
    def dim(self) -> int:
        return self.language_model.config.hidden_size

    @property
    def max_positions(self) -> int:
        """The longest sequence that the language model was made for."""
        return self.language_model.config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        return self.vlm.device

    @property
    def dtype(self) -> torch.dtype:
        return self.vlm.dtype

    @property
    def vision_modules(self) -> list[nn.Module]:
        """All that comes before the language model."""
        parts = getattr(self.vlm, "model", self.vlm).children()
        return [module for module in parts if self.language_model not in list(module.modules())]

    @property
    def unread_modules(self) -> list[nn.Module]:
        """Those parts of the vision modules that do not run, since nobody reads what they would say."""
        return []

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to a picture before the vision tower; part of what stored tokens depend on."""
        settings = image_processor_sha256(self.image_processor)
        return {"pad_to_square": self.pad_to_square, "image_processor_sha256": settings}

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of the stored base weights: independent of sharding, of the loaded dtype and of what is trained."""
        return weights_sha256(self.source.folder)

    @cached_property
    def settings_sha256(self) -> str:
        """Hash of all beside the weights that changes answers: configuration, tokenizer, chat template."""
        return settings_sha256(self.source.folder)

    @cached_property
    def decoder_name(self) -> str:
        """The language model's name inside the whole model."""
        return next(
            name for name, module in self.vlm.named_modules() if module is self.language_model
        )

    def train(self, mode: bool = True) -> "Backbone":
        """Switch the language model (its LoRA dropout) only; the vision side never leaves evaluation."""
        super().train(mode)
        for module in self.vision_modules:
            module.eval()
        return self

    def squared(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """The pictures, padded to squares if that is wanted."""
        if not self.pad_to_square:
            return list(images)
        return [pad_to_square(image, self.image_processor.image_mean) for image in images]

    def encode_images(self, pictures: PreparedPictures) -> Segment:
        """What the language model reads of pictures.

        Without a graph as long as the connector is frozen: nothing in it asks for a gradient.
        """
        pictures = pictures.to(self.device, self.dtype)
        tokens = [part.to(self.dtype) for part in self.picture_tokens(pictures)]
        return picture_segment(tokens, self.picture_positions(pictures))

    def framed(self, pictures: Segment) -> list[Segment]:
        """Pictures between the tokens that stand around one in a chat."""
        before, after = (
            text_segment(
                self.embed(torch.tensor([ids], dtype=torch.long, device=self.device)).expand(
                    pictures.num_rows, -1, -1
                )
            )
            for ids in self.chat.frame_ids
        )
        return [before, pictures, after]

    def train_decoder(self) -> nn.Module:
        """Let the decoder layers and the final norm learn, themselves; returns the whole model."""
        self.language_model.layers.requires_grad_(True)
        self.language_model.norm.requires_grad_(True)
        return self.vlm

    def train_connector(self) -> None:
        """Let the connector learn, in float32."""
        connector = self.connector.float().requires_grad_(True)
        connector.register_forward_pre_hook(
            lambda _, inputs: tuple(as_float(part) for part in inputs)
        )

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings: (batch, tokens) -> (batch, tokens, dim)."""
        return self.vlm.get_input_embeddings()(input_ids)

    @property
    def embedding_table(self) -> Tensor:
        """The embeddings of all tokens as the language model reads them, (vocab, dim)."""
        embeddings = self.vlm.get_input_embeddings()
        scale = getattr(embeddings, "embed_scale", None)  # Gemma's
        return embeddings.weight if scale is None else embeddings.weight * scale

    def embed_chat(self, input_ids: Tensor, visual_tokens: Tensor | None) -> Tensor:
        """Token embeddings in which visual tokens stand at the image placeholders: (batch, tokens, dim).

        visual_tokens: (…, dim) in the order of the placeholders, or None when no row has any.
        """
        is_placeholder = input_ids == self.image_token_id
        num_placeholders = int(is_placeholder.sum())
        num_visual = 0 if visual_tokens is None else visual_tokens.shape[:-1].numel()
        if num_placeholders != num_visual:
            raise ValueError(
                f"{num_placeholders} image placeholders for {num_visual} visual tokens; encode the chat with the "
                "number of visual tokens that its pictures have"
            )
        embeddings = self.embed(input_ids)
        if visual_tokens is None:
            return embeddings
        return embeddings.masked_scatter(
            is_placeholder[..., None], visual_tokens.to(embeddings.dtype)
        )

    def chat_segment(self, input_ids: Tensor, mask: Tensor, pictures: Segment | None) -> Segment:
        """Chats in which a picture each, if any, stands at the image placeholders; ids and mask (rows, tokens).

        What the model itself makes of such ids and pictures: with their positions, and with who
        sees whom.
        """
        visual_tokens = None if pictures is None else pictures.embeddings[pictures.mask.bool()]
        chat = text_segment(self.embed_chat(input_ids, visual_tokens), mask)
        return (
            chat if pictures is None else insert(chat, input_ids == self.image_token_id, pictures)
        )

    def arguments(self, inputs: Segment, mask: Tensor | None = None) -> dict[str, Any]:
        """What the language model takes to read a segment; `mask` (rows, 1, tokens, tokens) if it is not causal."""
        return {
            "inputs_embeds": inputs.embeddings,
            "attention_mask": self.attention(inputs, inputs.mask if mask is None else mask),
            "position_ids": inputs.position_ids,
        }


def as_float(value: Any) -> Any:
    """Tensors of floating point as float32, anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def pad_to_square(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """Centre an RGB picture on a square of the mean colour (`mean` in 0..1), as LLaVA-1.5 does."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(channel * 255) for channel in mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def image_processor_sha256(image_processor: Any) -> str:
    """Hash of all settings of an image processor."""
    return hashlib.sha256(image_processor.to_json_string().encode()).hexdigest()


def weights_sha256(folder: Path) -> str:
    """Hash the safetensors in a folder: name, type, shape and bytes of every tensor, in the order of the names.

    Raises ValueError, naming the file, for one that is cut or none, and for a tensor in two files:
    only one is loaded.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with whole_safetensors(path), safe_open(path, "pt") as tensors:
            names = list(tensors.keys())
        if twice := sorted(files.keys() & set(names)):
            other = files[twice[0]].name
            raise ValueError(
                f"{path}: holds {twice[0]}, and so does {other}; move the file elsewhere that is not loaded"
            )
        files |= dict.fromkeys(names, path)
    digest = hashlib.sha256()
    for name in sorted(files):
        with safe_open(files[name], "pt") as tensors:
            tensor = tensors.get_tensor(name)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
