"""LLaVA-NeXT (LLaVA-1.6): the whole picture and tiles of it; an embedding ends each row of patches.

A picture has as many tokens as its shape needs: up to 2 880 with the published tiles.
"""

from typing import ClassVar

from PIL import Image

from components.model.backbone import Backbone
from components.model.chat import Markup
from components.model.families.llava import small_view, why_view_not_shrunk
from components.model.segments import Segment


class LlavaNextBackbone(Backbone):
    """Pixels are (pictures, most tiles, 3, height, width); image sizes say which tiles are real."""

    architectures: ClassVar[tuple[str, ...]] = ("LlavaNextForConditionalGeneration",)
    # of Llama 3 and of Yi; Vicuna has none
    markup: ClassVar[Markup] = Markup(end_tokens=("<|eot_id|>", "<|im_end|>"))
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes")

    def why_not_shrunk(self, num_tokens: int) -> str | None:
        """Return why no picture can be shrunk to `num_tokens` image tokens; None if each can."""
        return why_view_not_shrunk(self.vlm.config, num_tokens)

    def shrunk_picture(self, image: Image.Image, num_tokens: int) -> Segment:
        """Encode an RGB picture, shrunk until it has at most `num_tokens` image tokens: one row.

        It is the view of the whole picture, without tiles.
        """
        return small_view(self, image, num_tokens)
