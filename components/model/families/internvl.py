"""InternVL (arXiv 2404.16821), in transformers' format: pixel-shuffled tiles of 256 tokens."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from components.model.backbone import Backbone
from components.model.chat import Markup
from components.model.prepared import PreparedPictures


class InternVLBackbone(Backbone):
    """Tiles stand one after the other, the whole picture last, with nothing between them."""

    architectures: ClassVar[tuple[str, ...]] = ("InternVLForConditionalGeneration",)
    markup: ClassVar[Markup] = Markup(
        image_token="<IMG_CONTEXT>",
        template_image="<IMG_CONTEXT>",
        frame=("<img>", "</img>"),
        end_tokens=("<|im_end|>",),
    )

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures:
        """Preprocess to tiles (tiles of all pictures, 3, height, width) and their number."""
        output = self.image_processor(
            self.squared(images), crop_to_patches=True, return_tensors="pt"
        )
        num_tiles = torch.as_tensor(output["num_patches"])
        tensors = {"pixel_values": output["pixel_values"], "num_tiles": num_tiles}
        return PreparedPictures(len(images), tensors)

    def picture_tokens(self, pictures: PreparedPictures) -> list[Tensor]:
        """Run vision tower, pixel shuffle and MLP: (image tokens, dim) for each picture."""
        tiles = self.vlm.model.get_image_features(pictures.tensors["pixel_values"]).pooler_output
        return [part.flatten(0, 1) for part in tiles.split(pictures.tensors["num_tiles"].tolist())]
