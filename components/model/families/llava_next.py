"""LLaVA-NeXT (LLaVA-1.6): the whole picture and tiles of it; an embedding ends each row of patches.

A picture has as many tokens as its shape needs: up to 2 880 with the published tiles.
"""

from typing import ClassVar

from components.model.backbone import Backbone
from components.model.chat import Markup


class LlavaNextBackbone(Backbone):
    """Pixels are (pictures, most tiles, 3, height, width); image sizes say which tiles are real."""

    architectures: ClassVar[tuple[str, ...]] = ("LlavaNextForConditionalGeneration",)
    # of Llama 3 and of Yi; Vicuna has none
    markup: ClassVar[Markup] = Markup(end_tokens=("<|eot_id|>", "<|im_end|>"))
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes")
