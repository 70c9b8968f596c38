"""Gemma 3 (arXiv 2503.19786): SigLIP pooled to 256 tokens that see each other both ways.

Most layers of the language model see a sliding window only.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from components.model.backbone import Backbone
from components.model.chat import Markup
from components.model.segments import Segment


class Gemma3Backbone(Backbone):
    """One view of a picture: the optional crops ("pan and scan") are off, as in transformers."""

    architectures: ClassVar[tuple[str, ...]] = ("Gemma3ForConditionalGeneration",)
    markup: ClassVar[Markup] = Markup(
        image_token="<image_soft_token>",
        template_image="<start_of_image>",
        frame=("\n\n<start_of_image>", "<end_of_image>\n\n"),
        end_tokens=("<end_of_turn>",),
    )

    def attention(self, inputs: Segment, mask: Tensor) -> Any:
        """Return a mask (rows, 1, tokens, tokens) for each kind of layer.

        Tokens of a picture all see each other (transformers' `create_masks_for_vision_model`);
        windows are longer than a picture.
        """
        sees = seen_before(mask) if mask.ndim == 2 else mask
        positions, is_picture = inputs.positions[0][:, None], inputs.is_picture[:, None]
        distance = (positions[..., None] - positions[..., None, :]).abs()
        is_near = distance < self.language_model.config.sliding_window
        in_picture = is_picture[..., None] & is_picture[..., None, :]

        return {
            "full_attention": sees | in_picture,
            "sliding_attention": (sees & is_near) | in_picture,
        }


def seen_before(mask: Tensor) -> Tensor:
    """Return the causal mask over the tokens that are there.

    (rows, tokens) -> (rows, 1, tokens, tokens). Padding sees itself: the softmax over nothing at
    all is NaN, and spreads.
    """
    places = torch.arange(mask.shape[1], device=mask.device)
    before = (places < places[:, None]) & mask.bool()[:, None, None]
    return before | (places == places[:, None])
