"""Places of image tokens on the picture; attention is drawn where they are cells of one grid."""

import torch
from PIL import Image
from torch import Tensor

from components.inspection.parts import AbsentError
from components.model.backbone import Backbone
from components.model.families.llava import LlavaBackbone
from components.model.prepared import PreparedPictures


def grid_side(backbone: Backbone) -> int:
    """Return the number of image tokens along each side of a picture.

    Raises AbsentError for families that cut pictures in other ways.
    """
    if not isinstance(backbone, LlavaBackbone):
        raise AbsentError(
            f"the image tokens of {backbone.source.name} are tiles, or mixtures of patches, "
            "and not one grid over the picture"
        )

    vision = backbone.vlm.config.vision_config
    return vision.image_size // vision.patch_size


def on_grid(weights: Tensor, side: int) -> Tensor:
    """Drop a class token before the grid: (…, image tokens) -> (…, side · side)."""
    return weights[..., weights.shape[-1] - side * side :]


def as_read(backbone: Backbone, picture: PreparedPictures) -> Image.Image:
    """Return the picture under the grid: padded, resized or cropped, as the tower gets it."""
    processor, pixels = backbone.image_processor, picture.tensors["pixel_values"][0]

    # The inverse of the normalisation, channel by channel.
    mean = torch.tensor(processor.image_mean)[:, None, None]
    std = torch.tensor(processor.image_std)[:, None, None]
    levels = ((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
