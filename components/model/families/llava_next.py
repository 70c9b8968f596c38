"""LLaVA-NeXT (LLaVA-1.6): the whole picture and tiles of it, a learned embedding at the end of each row of patches.

A picture has as many tokens as its shape needs: up to 2 880 with the published tiles.
"""

from collections.abc import Sequence
from typing import ClassVar

from PIL import Image
from torch import Tensor

from components.model.backbone import Backbone
from components.model.chat import Markup
from components.model.prepared import PreparedPictures


class LlavaNextBackbone(Backbone):
    """Tiles of all pictures of a batch go through the tower at once."""

    architectures: ClassVar[tuple[str, ...]] = ("LlavaNextForConditionalGeneration",)
    markup: ClassVar[Markup] = Markup(end_tokens=("<|eot_id|>", "<|im_end|>"))  # of Llama 3 and of Yi; Vicuna has none

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures:
        """Pixels (pictures, most tiles, 3, height, width) and the original sizes, which say how many tiles are real."""
        output = self.image_processor(self.squared(images), return_tensors="pt")
        return PreparedPictures(len(images), {name: output[name] for name in ("pixel_values", "image_sizes")})

    def picture_tokens(self, pictures: PreparedPictures) -> list[Tensor]:
        """Vision tower, connector and the ends of rows: (image tokens, dim) of each picture."""
        config = self.vlm.config
        features = self.vlm.model.get_image_features(
            **pictures.tensors,
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
        )
        return list(features.pooler_output)
