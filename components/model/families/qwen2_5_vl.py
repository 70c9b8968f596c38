"""Qwen2.5-VL (arXiv 2502.13923): pictures in their own size, positions by rows and columns.

The positions are those of its multimodal rotary embedding (M-RoPE).
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from components.model.backbone import Backbone
from components.model.chat import Markup
from components.model.prepared import PreparedPictures


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
