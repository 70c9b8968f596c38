"""LLaVA-OneVision (arXiv 2408.03326): SigLIP and Qwen2; tiles as in LLaVA-NeXT, shrunk where they are too many."""

from typing import ClassVar

from components.model.chat import Markup
from components.model.families.llava_next import LlavaNextBackbone


class LlavaOnevisionBackbone(LlavaNextBackbone):
    """For one picture at a time it differs from LLaVA-NeXT in what its configuration says, and nowhere else."""

    architectures: ClassVar[tuple[str, ...]] = ("LlavaOnevisionForConditionalGeneration",)
    markup: ClassVar[Markup] = Markup(end_tokens=("<|im_end|>",))
