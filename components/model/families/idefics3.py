"""Idefics3 (arXiv 2408.12637) and SmolVLM (arXiv 2504.05299): pixel-shuffled tiles with names.

The tokens that say which tile follows (row and column) belong to the picture: they are read with
it and compressed with it.
"""

from collections.abc import Sequence
from itertools import product
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from components.model.backbone import Backbone
from components.model.chat import Markup
from components.model.prepared import PreparedPictures

TENSORS = ("pixel_values", "pixel_attention_mask")
EDGE = "<fake_token_around_image>"


class Idefics3Backbone(Backbone):
    """Between two tiles stand the token that ends and starts one, and the name of the next."""

    architectures: ClassVar[tuple[str, ...]] = (
        "Idefics3ForConditionalGeneration",
        "SmolVLMForConditionalGeneration",
    )
    markup: ClassVar[Markup] = Markup(frame=(EDGE, EDGE), end_tokens=("<end_of_utterance>",))

    @property
    def language_model(self) -> nn.Module:
        """The decoder without its head; its output is taken after the final norm."""
        return self.vlm.model.text_model

    @property
    def connector(self) -> nn.Module:
        """The module between vision tower and language model."""
        return self.vlm.model.connector

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures:
        """Preprocess to tiles (pictures, most tiles, 3, height, width), layout and real pixels.

        `rows`, `cols`: (pictures,), tiles along each side; 0 for the whole picture alone.
        """
        output = self.image_processor(
            [[image] for image in self.squared(images)],
            return_row_col_info=True,
            return_tensors="pt",
        )
        tensors = {name: output[name] for name in TENSORS}

        # The processor lists pictures by chat, of which each has one here.
        for name in ("rows", "cols"):
            tensors[name] = torch.tensor(output[name]).flatten()
        return PreparedPictures(len(images), tensors)

    def picture_tokens(self, pictures: PreparedPictures) -> list[Tensor]:
        """Encode tiles, with the tokens between them: (image tokens, dim) for each picture."""
        tensors = pictures.tensors
        pixel_values, is_real = tensors["pixel_values"], tensors["pixel_attention_mask"]
        found = self.vlm.model.get_image_features(pixel_values, is_real).pooler_output
        layout = tensors["rows"].tolist(), tensors["cols"].tolist()
        return list(map(self._with_names, found, *layout))

    def _with_names(self, tokens: Tensor, num_rows: int, num_columns: int) -> Tensor:
        """Put the text of transformers' `Idefics3Processor` between tiles (tokens of all, dim)."""
        tiles = tokens.chunk(num_rows * num_columns + 1)
        parts = []
        for text, tile in zip(tile_names(num_rows, num_columns), tiles, strict=True):
            ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            parts += [self.embed(torch.tensor(ids, device=self.device)), tile]
        return torch.cat(parts)


def tile_names(num_rows: int, num_columns: int) -> list[str]:
    """Return the text before each tile and before the whole picture.

    The very first edge is left out: it is part of the frame.
    """
    names = []
    for row, column in product(range(num_rows), range(num_columns)):
        line_break = "\n" if row and not column else ""
        names.append(f"{line_break}{EDGE}<row_{row + 1}_col_{column + 1}>")

    # The whole picture comes last, and alone where there are no tiles.
    names.append(f"\n\n{EDGE}<global-img>" if names else f"{EDGE}<global-img>")
    names[0] = names[0].removeprefix(EDGE)
    return names
