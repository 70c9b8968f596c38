"""LLaVA-1.5 (arXiv 2310.03744): CLIP, read at its second last layer, an MLP, 576 tokens.

The tower may be another one of transformers, such as SigLIP (arXiv 2303.15343), which has no
class token.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from components.model.backbone import Backbone, Preprocessing
from components.model.prepared import PreparedPictures
from components.model.segments import Segment, picture_segment
from components.model.shrinking import shrink, to_pixels

WITHOUT_CLASS_TOKEN = ("siglip_vision_model",)  # towers, by their model_type in transformers


class LlavaBackbone(Backbone):
    """The paper's base model; its features alone can be cached, or compressed in the tower."""

    architectures: ClassVar[tuple[str, ...]] = ("LlavaForConditionalGeneration",)

    def set_up(self) -> None:
        """Leave out the layers of the vision tower whose output is not read."""
        for layer in self.unread_modules:
            layer.forward = pass_on

    @property
    def unread_modules(self) -> list[nn.Module]:
        """Layers of the vision tower above the last one that the connector reads."""
        return list(self.vlm.model.vision_tower.encoder.layers[num_read_layers(self.vlm) :])

    @property
    def num_image_tokens(self) -> int:
        """Tokens that the connector makes of one picture (576 for LLaVA-1.5)."""
        return num_image_tokens(self.vlm.config)

    @property
    def preprocessing(self) -> Preprocessing:
        """Settings that change a picture before the vision tower; stored tokens depend on them."""
        return {
            "pad_to_square": self.pad_to_square,
            "image_size": self.vlm.config.vision_config.image_size,
            "image_mean": tuple(self.image_processor.image_mean),
            "image_std": tuple(self.image_processor.image_std),
        }

    def picture_tokens(self, pictures: PreparedPictures) -> list[Tensor]:
        """Run vision tower and connector: (image tokens, dim) for each picture."""
        return list(self.connector(self.vision_features(pictures)))

    def vision_features(self, pictures: PreparedPictures) -> Tensor:
        """Run the vision tower up to the features that the connector reads.

        Returns (pictures, image tokens, vision dim), side by side if it reads several layers.
        """
        return read_features(self.vlm.config, self.vision_states(pictures))

    def vision_states(self, pictures: PreparedPictures) -> tuple[Tensor, ...]:
        """Run the vision tower and return its hidden states, up to the highest that is read.

        (pictures, class token and patches, vision dim) each.
        """
        pixels = pictures.to(self.device, self.dtype).tensors
        return self.vlm.model.vision_tower(**pixels, output_hidden_states=True).hidden_states

    def why_not_shrunk(self, num_tokens: int) -> str | None:
        """Return why no picture can be shrunk to `num_tokens` image tokens; None if each can."""
        return why_view_not_shrunk(self.vlm.config, num_tokens)

    def shrunk_picture(self, image: Image.Image, num_tokens: int) -> Segment:
        """Encode an RGB picture, shrunk until it has at most `num_tokens` image tokens: one row."""
        return small_view(self, image, num_tokens)

    @property
    def has_class_token(self) -> bool:
        """Whether the tower's states begin with a class token, as CLIP's do and SigLIP's do not."""
        return has_class_token(self.vlm.config)

    @property
    def read_layer(self) -> int:
        """The hidden state that the connector reads, the last one if there are several."""
        return read_layers(self.vlm.config)[-1]

    def connect_patches(self, patches: Tensor) -> Tensor:
        """Run the connector: (…, vision dim) -> (…, dim)."""
        return self.connector(patches.to(self.device, self.dtype)).to(self.dtype)

    def connect(self, vision_features: Tensor) -> Segment:
        """Run the connector on vision features (pictures, image tokens, vision dim).

        Returns the input of the language model, as `encode_images` does.
        """
        return picture_segment(list(self.connect_patches(vision_features)))

    def compress_in_tower(self, pictures: PreparedPictures, queries: Tensor) -> Tensor:
        """Let the vision tower read queries behind the patches (paper, Table 7).

        (batch, n, vision dim) -> (batch, n, dim): the connector takes the tower's outputs at the
        queries into the language model's input space.
        """
        tower = self.vlm.model.vision_tower
        patches = tower.embeddings(**pictures.to(self.device, self.dtype).tensors)
        norm = getattr(tower, "pre_layrnorm", nn.Identity())  # SigLIP has none
        hidden = norm(torch.cat([patches, queries.to(self.dtype)], dim=1))

        # The same layers as for patches alone; attention is bidirectional, without a mask.
        for layer in tower.encoder.layers[: num_read_layers(self.vlm)]:
            hidden = layer(hidden, attention_mask=None)
        return self.connector(hidden[:, -queries.shape[1] :]).to(self.dtype)


def num_image_tokens(config: Any) -> int:
    """Return the tokens of a picture, from the configuration of a LLaVA.

    These are its patches, and the class token if there is one and the connector reads it.
    """
    vision = config.vision_config
    num_patches = (vision.image_size // vision.patch_size) ** 2
    return num_patches + has_class_token(config) - num_dropped_states(config)


def has_class_token(config: Any) -> bool:
    """Return whether the tower's states begin with a class token."""
    return config.vision_config.model_type not in WITHOUT_CLASS_TOKEN


def num_dropped_states(config: Any) -> int:
    """Return how many states of the tower the connector leaves out: the class token, or none."""
    return 1 if config.vision_feature_select_strategy == "default" else 0


def read_layers(config: Any) -> list[int]:
    """Return the hidden states of the tower that the connector reads; negative from the end."""
    layers = config.vision_feature_layer
    return [layers] if isinstance(layers, int) else list(layers)


def read_features(config: Any, states: Sequence[Tensor]) -> Tensor:
    """Return what the connector reads of the tower's hidden states.

    (pictures, image tokens, vision dim), side by side if it reads several layers.
    """
    first = num_dropped_states(config)
    features = [states[layer][:, first:] for layer in read_layers(config)]
    return torch.cat(features, dim=-1)


def why_view_not_shrunk(config: Any, num_tokens: int) -> str | None:
    """Return why the tower cannot read a whole picture as `num_tokens` tokens; None if it can."""
    if has_class_token(config) and not num_dropped_states(config):
        return "its language model reads a class token, which does not get smaller with a picture"

    num_patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    if num_tokens > num_patches:
        return f"it reads {num_patches} tokens of a picture, and {num_tokens} would be more"
    return None


def small_view(backbone: Backbone, image: Image.Image, num_tokens: int) -> Segment:
    """Encode an RGB picture as one view of at most `num_tokens` patches: one row.

    The tower interpolates its position embeddings; tiles and the ends of their rows are left out.
    """
    # A patch is a token, whatever the size of the picture.
    config = backbone.vlm.config
    small = shrink(image, num_tokens, config.vision_config.patch_size)
    pixels = to_pixels(small, backbone.image_processor).to(backbone.device, backbone.dtype)
    states = backbone.vlm.model.vision_tower(
        pixels, output_hidden_states=True, interpolate_pos_encoding=True
    ).hidden_states

    tokens = backbone.connector(read_features(config, states))
    return picture_segment(list(tokens.to(backbone.dtype)))


def num_read_layers(vlm: Any) -> int:
    """Count the layers of the vision tower up to the highest that the connector reads."""
    num_states = len(vlm.model.vision_tower.encoder.layers) + 1
    return max(index % num_states for index in read_layers(vlm.config))


def pass_on(hidden_states: Tensor, *_: object, **__: object) -> Tensor:
    """Return the input, in place of a layer whose output is not read."""
    return hidden_states
