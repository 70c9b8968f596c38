"""The frozen base model: one small interface over transformers' vision-language models.

`Backbone` is the interface, and also the build that most models share. A family of models
(`families/`, one file each) is a subclass that says where it differs. The vision side, the token
embeddings and the LM head stay as they are; the trained parts hang beside them (`adapters`,
`summary_queries`).
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
from components.model.segments import Segment, insert, picture_segment, stack, text_segment
from components.model.settings_identity import settings_sha256

Preprocessing = dict[str, bool | int | str | tuple[float, ...]]


class Source(NamedTuple):
    """The place a base model comes from."""

    folder: Path
    name: str  # hub id, or the name of the folder
    revision: str | None


class Backbone(nn.Module):
    """A frozen vision-language model, taken apart into the parts that the two passes need.

    A family is a subclass, listed in `families.FAMILIES` (steps: docs/models.md). It has to say:

    - `architectures`, always: the classes in config.json that it takes;
    - `markup`: image token, frame and end tokens in a chat, unless they are LLaVA's;
    - `image_inputs`: outputs of the image processor that its vision side reads;
    - `prepare` and `picture_tokens`: when `get_image_features` of its class does not take these
      outputs and give one tensor per picture;
    - `picture_positions`: when tokens of a picture are numbered along rows and columns;
    - `attention`: when its language model wants a mask of its own kind;
    - `language_model`, `lm_head`, `connector`: when they lie elsewhere than in LLaVA's class;
    - `why_not_shrunk`, `shrunk_picture`: when it makes fewer tokens of a smaller picture;
    - `set_up`, `unread_modules`, `preprocessing`: when it needs a file more, leaves out parts of
      its vision side, or has settings of a picture beside those of the image processor.

    The members below these are the same for every family.
    """

    architectures: ClassVar[tuple[str, ...]]
    markup: ClassVar[Markup] = Markup()
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
        self.set_up()

    # For a family to override.

    def set_up(self) -> None:
        """Prepare the loaded model, once. Raises ValueError for an unsupported variant."""

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures:
        """Preprocess RGB pictures of any size, on the CPU."""
        output = self.image_processor(self.squared(images), return_tensors="pt")
        return PreparedPictures(len(images), {name: output[name] for name in self.image_inputs})

    def picture_tokens(self, pictures: PreparedPictures) -> list[Tensor]:
        """Run vision side and connector: (image tokens, dim) for each picture."""
        return list(self.vlm.model.get_image_features(**pictures.tensors).pooler_output)

    def picture_positions(self, pictures: PreparedPictures) -> list[Tensor] | None:
        """Return positions (axes, image tokens) of each picture, from 0.

        None: image tokens are numbered one after the other, as text is.
        """
        return None

    def why_not_shrunk(self, num_tokens: int) -> str | None:
        """Return why no picture can be shrunk to `num_tokens` image tokens; None if each can."""
        return "it makes as many tokens of a small picture as of a large one"

    def shrunk_picture(self, image: Image.Image, num_tokens: int) -> Segment:
        """Encode an RGB picture, shrunk until it has at most `num_tokens` image tokens: one row."""
        raise NotImplementedError

    def attention(self, inputs: Segment, mask: Tensor) -> Any:
        """Return the attention mask in the form in which the language model takes it.

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
        """The linear layer from hidden states to logits over the vocabulary."""
        return self.vlm.lm_head

    @property
    def connector(self) -> nn.Module:
        """The module between vision tower and language model."""
        return self.vlm.model.multi_modal_projector

    @property
    def unread_modules(self) -> list[nn.Module]:
        """Parts of the vision modules that never run, because their output is not read."""
        return []

    @property
    def preprocessing(self) -> Preprocessing:
        """Settings that change a picture before the vision tower; stored tokens depend on them."""
        settings = image_processor_sha256(self.image_processor)
        return {"pad_to_square": self.pad_to_square, "image_processor_sha256": settings}

    # The same for every family.

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, which also writes the chats."""
        return self.chat.tokenizer

    @property
    def image_token_id(self) -> int:
        """The id of the placeholder that stands for one visual token."""
        return self.vlm.config.image_token_id

    @property
    def dim(self) -> int:
        """Numbers in a hidden state of the language model."""
        return self.language_model.config.hidden_size

    @property
    def max_positions(self) -> int:
        """Tokens of the longest sequence that the language model was made for."""
        return self.language_model.config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.vlm.device

    @property
    def dtype(self) -> torch.dtype:
        """The number type of the weights."""
        return self.vlm.dtype

    @property
    def vision_modules(self) -> list[nn.Module]:
        """The modules in front of the language model: vision tower, connector and the like."""
        parts = getattr(self.vlm, "model", self.vlm).children()
        return [module for module in parts if self.language_model not in list(module.modules())]

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of the stored weights, whatever their sharding, loaded type and training."""
        return weights_sha256(self.source.folder)

    @cached_property
    def settings_sha256(self) -> str:
        """Hash of the settings that change answers: configuration, tokenizer and chat template."""
        return settings_sha256(self.source.folder)

    @cached_property
    def decoder_name(self) -> str:
        """The language model's name inside the whole model."""
        modules = self.vlm.named_modules()
        return next(name for name, module in modules if module is self.language_model)

    @property
    def embedding_table(self) -> Tensor:
        """The embeddings of all tokens as the language model reads them, (vocab, dim)."""
        embeddings = self.vlm.get_input_embeddings()
        scale = getattr(embeddings, "embed_scale", None)  # Gemma's
        return embeddings.weight if scale is None else embeddings.weight * scale

    def train(self, mode: bool = True) -> "Backbone":
        """Switch the language model (its LoRA dropout) only; the vision side stays in eval mode."""
        super().train(mode)
        for module in self.vision_modules:
            module.eval()
        return self

    def train_decoder(self) -> nn.Module:
        """Make the decoder layers and the final norm trainable; return the whole model."""
        self.language_model.layers.requires_grad_(True)
        self.language_model.norm.requires_grad_(True)
        return self.vlm

    def train_connector(self) -> None:
        """Make the connector trainable, in float32."""
        connector = self.connector.float().requires_grad_(True)
        connector.register_forward_pre_hook(lambda _, inputs: tuple(map(as_float, inputs)))

    def squared(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """Return the pictures, padded to squares of the mean colour if that is wanted (§3.1)."""
        if not self.pad_to_square:
            return list(images)

        red, green, blue = (int(channel * 255) for channel in self.image_processor.image_mean)
        return [pad_to_square(image, (red, green, blue)) for image in images]

    def encode_images(self, pictures: PreparedPictures) -> Segment:
        """Encode pictures as the language model reads them: H_v = g(X_v) W (§3.1).

        No graph is built as long as the connector is frozen: nothing in it asks for a gradient.
        """
        pictures = pictures.to(self.device, self.dtype)
        tokens = [part.to(self.dtype) for part in self.picture_tokens(pictures)]
        return picture_segment(tokens, self.picture_positions(pictures))

    def encode_shrunk(self, images: Sequence[Image.Image], num_tokens: int) -> Segment:
        """Encode RGB pictures, each shrunk until it has at most `num_tokens` image tokens.

        Raises ValueError where `why_not_shrunk` has a reason.
        """
        if why := self.why_not_shrunk(num_tokens):
            raise ValueError(f"{self.source.name}: {why}")
        return stack([self.shrunk_picture(image, num_tokens) for image in images])

    def framed(self, pictures: Segment) -> list[Segment]:
        """Put the text that surrounds a picture in a chat before and after each picture."""
        frame = []
        for ids in self.chat.frame_ids:
            embeddings = self.embed(torch.tensor([ids], dtype=torch.long, device=self.device))
            frame.append(text_segment(embeddings.expand(pictures.num_rows, -1, -1)))
        before, after = frame
        return [before, pictures, after]

    def embed(self, input_ids: Tensor) -> Tensor:
        """Look up token embeddings: (batch, tokens) -> (batch, tokens, dim)."""
        return self.vlm.get_input_embeddings()(input_ids)

    def embed_chat(self, input_ids: Tensor, visual_tokens: Tensor | None) -> Tensor:
        """Embed chats (batch, tokens), with visual tokens at the image placeholders.

        `visual_tokens`: (…, dim) in the order of the placeholders, or None when no row has any.
        Returns (batch, tokens, dim). Raises ValueError when the two differ in number.
        """
        is_placeholder = input_ids == self.image_token_id
        num_placeholders = int(is_placeholder.sum())
        num_visual = 0 if visual_tokens is None else visual_tokens.shape[:-1].numel()

        # masked_scatter would take too many tokens in silence.
        if num_placeholders != num_visual:
            raise ValueError(
                f"{num_placeholders} image placeholders for {num_visual} visual tokens; "
                "encode the chat with the number of visual tokens that its pictures have"
            )

        embeddings = self.embed(input_ids)
        if visual_tokens is None:
            return embeddings
        visual_tokens = visual_tokens.to(embeddings.dtype)
        return embeddings.masked_scatter(is_placeholder[..., None], visual_tokens)

    def chat_segment(self, input_ids: Tensor, mask: Tensor, pictures: Segment | None) -> Segment:
        """Embed chats, ids and mask (rows, tokens), each with its picture at the placeholders.

        Image tokens get the positions and the mutual attention that the model itself gives them.
        """
        visual_tokens = None if pictures is None else pictures.embeddings[pictures.mask.bool()]
        chat = text_segment(self.embed_chat(input_ids, visual_tokens), mask)
        if pictures is None:
            return chat

        # Embeddings are in place; the positions and the mark of a picture's tokens are not yet.
        return insert(chat, input_ids == self.image_token_id, pictures)

    def arguments(self, inputs: Segment, mask: Tensor | None = None) -> dict[str, Any]:
        """Return the arguments with which the language model reads a segment.

        `mask`: (rows, 1, tokens, tokens) for attention that is not causal.
        """
        return {
            "inputs_embeds": inputs.embeddings,
            "attention_mask": self.attention(inputs, inputs.mask if mask is None else mask),
            "position_ids": inputs.position_ids,
        }


def as_float(value: Any) -> Any:
    """Return a floating-point tensor as float32, anything else unchanged."""
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def pad_to_square(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Centre a picture on a square of one RGB colour, as LLaVA-1.5 does before resizing."""
    if image.width == image.height:
        return image
    side = max(image.size)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def image_processor_sha256(image_processor: Any) -> str:
    """Hash the settings of an image processor."""
    return hashlib.sha256(image_processor.to_json_string().encode()).hexdigest()


def weights_sha256(folder: Path) -> str:
    """Hash the safetensors in a folder: name, type, shape and bytes of every tensor, by name.

    Raises ValueError, naming the file, for one that is cut or none, and for a tensor in two files:
    only one is loaded.
    """
    # Where each tensor is: the hash must not depend on how they are spread over files.
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with whole_safetensors(path), safe_open(path, "pt") as tensors:
            names = list(tensors.keys())

        if twice := sorted(files.keys() & set(names)):
            other = files[twice[0]].name
            raise ValueError(
                f"{path}: holds {twice[0]}, and so does {other}; "
                "move the file elsewhere that is not loaded"
            )
        files |= dict.fromkeys(names, path)

    # One tensor at a time, so that memory holds no second copy of the model.
    digest = hashlib.sha256()
    for name in sorted(files):
        with safe_open(files[name], "pt") as tensors:
            tensor = tensors.get_tensor(name)

        # A tensor of another type or shape is another one, even with the same bytes.
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
