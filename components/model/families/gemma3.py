"""Gemma 3 (arXiv 2503.19786): SigLIP pooled to 256 tokens that see each other both ways; mostly sliding windows."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from components.model.backbone import Backbone
from components.model.chat import Markup
from components.model.segments import Segment


class Gemma3Backbone(Backbone):
    """One view of a picture: the optional crops ("pan and scan") are off, as they are in transformers."""

    architectures: ClassVar[tuple[str, ...]] = ("Gemma3ForConditionalGeneration",)
    markup: ClassVar[Markup] = Markup(
        image_token="<image_soft_token>",
        template_image="<start_of_image>",
        frame=("\n\n<start_of_image>", "<end_of_image>\n\n"),
        end_tokens=("<end_of_turn>",),
    )

    def attention(self, inputs: Segment, mask: Tensor) -> Any:
        """For each kind of layer who sees whom, (rows, 1, tokens, tokens): those of a picture all see each other."""
        sees = seen_before(mask) if mask.ndim == 2 else mask
        positions, is_picture = inputs.positions[0][:, None], inputs.is_picture[:, None]
        is_near = (
            positions[..., None] - positions[..., None, :]
        ).abs() < self.language_model.config.sliding_window
        in_picture = is_picture[..., None] & is_picture[..., None, :]
        return {
            "full_attention": sees | in_picture,
            "sliding_attention": (sees & is_near) | in_picture,
        }


def seen_before(mask: Tensor) -> Tensor:
    """Causal attention to the tokens that are there: (rows, tokens) -> (rows, 1, tokens, tokens).

    Padding sees itself: what sees nothing at all is not a number, and spreads.
    """
    places = torch.arange(mask.shape[1], device=mask.device)
    before = (places < places[:, None]) & mask.bool()[:, None, None]
    return before | (places == places[:, None])
