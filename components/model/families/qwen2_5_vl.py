"""Qwen2.5-VL (arXiv 2502.13923): pictures in their own shape and size, positions along rows and columns (M-RoPE)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from components.model.backbone import Backbone
from components.model.chat import Markup
from components.model.prepared import PreparedPictures


class Qwen25VLBackbone(Backbone):
    """Patches of all pictures stand in one row; a grid of each says which are whose."""

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
        """Between vision tower and language model."""
        return self.vlm.model.visual.merger

    def picture_positions(self, pictures: PreparedPictures) -> list[Tensor]:
        """Frame, row and column of each token, (3, image tokens)."""
        # patches along the side of a token
        merged = self.vlm.config.vision_config.spatial_merge_size
        grids = pictures.tensors["image_grid_thw"] // torch.tensor(
            [1, merged, merged], device=self.device
        )
        return [
            torch.cartesian_prod(*(torch.arange(n, device=self.device) for n in grid)).T
            for grid in grids.tolist()
        ]
