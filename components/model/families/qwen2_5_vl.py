"""Qwen2.5-VL (arXiv 2502.13923): pictures in their own size, positions by rows and columns.

The positions are those of its multimodal rotary embedding (M-RoPE).
"""

from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from components.model.backbone import Backbone
from components.model.chat import Markup
from components.model.prepared import PreparedPictures
from components.model.segments import Segment
from components.model.shrinking import shrink


class Qwen25VLBackbone(Backbone):
    """Patches of all pictures stand in one row; the grid of a picture says how many are its own."""

    architectures: ClassVar[tuple[str, ...]] = ("Qwen2_5_VLForConditionalGeneration",)
    markup: ClassVar[Markup] = Markup(
        image_token="<|image_pad|>",
        template_image="<|vision_start|><|image_pad|><|vision_end|>",
        frame=("<|vision_start|>", "<|vision_end|>"),
        end_tokens=("<|im_end|>",),
    )
    # grids: frames, rows, columns
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_grid_thw")

    @property
    def connector(self) -> nn.Module:
        """The module between vision tower and language model."""
        return self.vlm.model.visual.merger

    def picture_positions(self, pictures: PreparedPictures) -> list[Tensor]:
        """Return frame, row and column of each token, (3, image tokens), for each picture."""
        side = self.vlm.config.vision_config.spatial_merge_size  # patches along that of a token
        positions = []
        for frames, rows, columns in pictures.tensors["image_grid_thw"].tolist():
            axes = map(torch.arange, (frames, rows // side, columns // side))
            positions.append(torch.cartesian_prod(*axes).T.to(self.device))
        return positions

    def why_not_shrunk(self, num_tokens: int) -> None:
        """Return None: a picture has as many tokens as its size asks for."""

    def shrunk_picture(self, image: Image.Image, num_tokens: int) -> Segment:
        """Encode an RGB picture, shrunk until it has at most `num_tokens` image tokens: one row."""
        config = self.vlm.config.vision_config
        token_patches = config.spatial_merge_size**2
        num_patches = self.image_processor.get_number_of_image_patches(image.height, image.width)

        # A picture that is small enough is read as it is.
        if num_patches <= num_tokens * token_patches:
            return self.encode_images(self.prepare([image]))

        # The processor would enlarge what has fewer pixels than its least.
        small = shrink(image, num_tokens, config.patch_size * config.spatial_merge_size)
        output = self.image_processor([small], do_resize=False, return_tensors="pt")
        tensors = {name: output[name] for name in self.image_inputs}
        return self.encode_images(PreparedPictures(1, tensors))
