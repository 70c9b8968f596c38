"""LLaVA-1.5 (arXiv 2310.03744): a CLIP tower, read at its second last layer, and an MLP; 576 tokens per picture.

The tower may be another one of transformers, as SigLIP's (arXiv 2303.15343), which has no class
token.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from components.model.backbone import Backbone, Preprocessing, Source
from components.model.chat import ChatFormat
from components.model.prepared import PreparedPictures
from components.model.segments import Segment, picture_segment

WITHOUT_CLASS_TOKEN = ("siglip_vision_model",)  # towers, by transformers' name


class LlavaBackbone(Backbone):
    """The paper's base model, and the only family whose vision features can be cached or compressed in the tower."""

    architectures: ClassVar[tuple[str, ...]] = ("LlavaForConditionalGeneration",)

    def __init__(
        self,
        vlm: PreTrainedModel,
        chat: ChatFormat,
        image_processor: Any,
        source: Source,
        pad_to_square: bool,
    ) -> None:
        super().__init__(vlm, chat, image_processor, source, pad_to_square)
        for layer in self.unread_modules:
            layer.forward = pass_on

    @property
    def unread_modules(self) -> list[nn.Module]:
        """The layers of the vision tower above the last one that the connector reads."""
        return list(self.vlm.model.vision_tower.encoder.layers[num_read_layers(self.vlm) :])

    @property
    def num_image_tokens(self) -> int:
        """Tokens the connector makes of one picture (576 for LLaVA-1.5)."""
        return num_image_tokens(self.vlm.config)

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to a picture before the vision tower; part of what stored tokens depend on."""
        return {
            "pad_to_square": self.pad_to_square,
            "image_size": self.vlm.config.vision_config.image_size,
            "image_mean": tuple(self.image_processor.image_mean),
            "image_std": tuple(self.image_processor.image_std),
        }

    def picture_tokens(self, pictures: PreparedPictures) -> list[Tensor]:
        """Vision tower and connector: (image tokens, dim) of each picture."""
        return list(self.vlm.model.multi_modal_projector(self.vision_features(pictures)))

    def vision_features(self, pictures: PreparedPictures) -> Tensor:
        """What the connector reads: (pictures, image tokens, vision dim)."""
        config, states = self.vlm.config, self.vision_states(pictures)
        # without the class token
        first = 1 if config.vision_feature_select_strategy == "default" else 0
        read = config.vision_feature_layer
        return torch.cat(
            [states[layer][:, first:] for layer in ([read] if isinstance(read, int) else read)],
            dim=-1,
        )

    def vision_states(self, pictures: PreparedPictures) -> tuple[Tensor, ...]:
        """All hidden states of the tower up to those that are read: (pictures, class token and patches, vision dim)."""
        pixels = pictures.to(self.device, self.dtype).tensors
        return self.vlm.model.vision_tower(**pixels, output_hidden_states=True).hidden_states

    @property
    def has_class_token(self) -> bool:
        """Whether the tower's states begin with one, as CLIP's do and SigLIP's do not."""
        return self.vlm.config.vision_config.model_type not in WITHOUT_CLASS_TOKEN

    @property
    def read_layer(self) -> int:
        """The hidden state that the connector reads, the last of them if there are several."""
        read = self.vlm.config.vision_feature_layer
        return read if isinstance(read, int) else read[-1]

    def connect_patches(self, patches: Tensor) -> Tensor:
        """The connector: (…, vision dim) -> (…, dim)."""
        return self.vlm.model.multi_modal_projector(patches.to(self.device, self.dtype)).to(
            self.dtype
        )

    def connect(self, vision_features: Tensor) -> Segment:
        """The connector: vision features (pictures, image tokens, vision dim) -> what the language model reads."""
        return picture_segment(list(self.connect_patches(vision_features)))

    def compress_in_tower(self, pictures: PreparedPictures, queries: Tensor) -> Tensor:
        """Let the vision tower read queries behind the patches: (batch, n, vision dim) -> (batch, n, dim).

        The connector takes the tower's outputs at the queries into the language model's input
        space.
        """
        tower = self.vlm.model.vision_tower
        patches = tower.embeddings(**pictures.to(self.device, self.dtype).tensors)
        norm = getattr(tower, "pre_layrnorm", nn.Identity())  # SigLIP has none
        hidden = norm(torch.cat([patches, queries.to(self.dtype)], dim=1))
        for layer in tower.encoder.layers[: num_read_layers(self.vlm)]:
            hidden = layer(hidden, attention_mask=None)
        return self.vlm.model.multi_modal_projector(hidden[:, -queries.shape[1] :]).to(self.dtype)


def num_image_tokens(config: Any) -> int:
    """Of a picture, by the configuration of a LLaVA: its patches, and the class token if the connector reads it."""
    vision = config.vision_config
    num_states = (vision.image_size // vision.patch_size) ** 2 + (
        vision.model_type not in WITHOUT_CLASS_TOKEN
    )
    # which drops the first
    return num_states - (config.vision_feature_select_strategy == "default")


def num_read_layers(vlm: Any) -> int:
    """Layers of the vision tower up to the highest that the connector reads."""
    num_states = len(vlm.model.vision_tower.encoder.layers) + 1
    read = vlm.config.vision_feature_layer
    return max(index % num_states for index in ([read] if isinstance(read, int) else read))


def pass_on(hidden_states: Tensor, *_: object, **__: object) -> Tensor:
    """The identity, in place of a layer whose output nobody reads."""
    return hidden_states
