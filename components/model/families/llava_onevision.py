"""LLaVA-OneVision (arXiv 2408.03326): SigLIP and Qwen2; LLaVA-NeXT's tiles, shrunk if too many."""

from typing import ClassVar

from components.model.chat import Markup
from components.model.families.llava_next import LlavaNextBackbone


class LlavaOnevisionBackbone(LlavaNextBackbone):
    """LLaVA-NeXT's build: for one picture at a time only the configuration differs."""

    architectures: ClassVar[tuple[str, ...]] = ("LlavaOnevisionForConditionalGeneration",)
    markup: ClassVar[Markup] = Markup(end_tokens=("<|im_end|>",))
