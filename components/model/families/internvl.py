"""InternVL (arXiv 2404.16821), in transformers' own format: tiles, each pixel-shuffled to 256 tokens, and an MLP."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from components.model.backbone import Backbone
from components.model.chat import Markup
from components.model.prepared import PreparedPictures


class InternVLBackbone(Backbone):
    """The tiles of a picture stand one after the other, the whole picture last, with nothing between them."""

    architectures: ClassVar[tuple[str, ...]] = ("InternVLForConditionalGeneration",)
    markup: ClassVar[Markup] = Markup(
        image_token="<IMG_CONTEXT>",
        template_image="<IMG_CONTEXT>",
        frame=("<img>", "</img>"),
        end_tokens=("<|im_end|>",),
    )

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures:
        """Tiles (tiles of all pictures, 3, height, width), and how many each picture has."""
        output = self.image_processor(
            self.squared(images), crop_to_patches=True, return_tensors="pt"
        )
        num_tiles = torch.as_tensor(output["num_patches"])
        return PreparedPictures(
            len(images), {"pixel_values": output["pixel_values"], "num_tiles": num_tiles}
        )

    def picture_tokens(self, pictures: PreparedPictures) -> list[Tensor]:
        """Vision tower, pixel shuffle and MLP: (image tokens, dim) of each picture."""
        tiles = self.vlm.model.get_image_features(pictures.tensors["pixel_values"]).pooler_output
        return [part.flatten(0, 1) for part in tiles.split(pictures.tensors["num_tiles"].tolist())]
