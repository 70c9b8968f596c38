"""InternVL (arXiv 2404.16821), in transformers' format: pixel-shuffled tiles of 256 tokens."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from components.model.backbone import Backbone
from components.model.chat import Markup
from components.model.prepared import PreparedPictures
from components.model.segments import Segment, picture_segment
from components.model.shrinking import shrink, to_pixels


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

    def why_not_shrunk(self, num_tokens: int) -> str | None:
        """Return why no picture can be shrunk to `num_tokens` image tokens; None if each can."""
        height, width = self.vlm.config.vision_config.image_size
        num_tile_tokens = (height // self.token_side) * (width // self.token_side)
        if num_tokens > num_tile_tokens:
            return f"it reads {num_tile_tokens} tokens of a tile, and {num_tokens} would be more"
        return None

    def shrunk_picture(self, image: Image.Image, num_tokens: int) -> Segment:
        """Encode an RGB picture, shrunk until it has at most `num_tokens` image tokens: one row.

        It is one tile; the tower interpolates its position embeddings by itself.
        """
        small = shrink(image, num_tokens, self.token_side)
        pixels = to_pixels(small, self.image_processor).to(self.device, self.dtype)

        # As `get_image_features`, which knows square tiles only.
        model, config = self.vlm.model, self.vlm.config
        outputs = model.vision_tower(pixels, output_hidden_states=True)
        layer = config.vision_feature_layer
        patches = outputs.last_hidden_state if layer == -1 else outputs.hidden_states[layer]
        if config.vision_feature_select_strategy == "default":
            patches = patches[:, 1:]

        # Squares of patches become tokens.
        rows = pixels.shape[2] // config.vision_config.patch_size[0]
        grid = patches.unflatten(1, (rows, -1))
        shuffled = model.pixel_shuffle(grid, scale_factor=config.downsample_ratio)
        tokens = self.connector(shuffled.flatten(1, 2))
        return picture_segment(list(tokens.to(self.dtype)))

    @property
    def token_side(self) -> int:
        """Pixels along a side of the square that one token stands for."""
        config = self.vlm.config
        return round(config.vision_config.patch_size[0] / config.downsample_ratio)
