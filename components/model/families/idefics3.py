"""Idefics3 (arXiv 2408.12637) and SmolVLM (arXiv 2504.05299): pixel-shuffled tiles and tokens that name their places.

The tokens that say which tile follows belong to the picture: they are read with it and compressed
with it.
"""

from collections.abc import Sequence
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
    """Between two tiles stands the token that ends and starts one, and the name of the next: its row and column."""

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
        """Between vision tower and language model."""
        return self.vlm.model.connector

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures:
        """Tiles (pictures, most tiles, 3, height, width), which of their pixels are real, and the rows and columns."""
        output = self.image_processor(
            [[image] for image in self.squared(images)],
            return_row_col_info=True,
            return_tensors="pt",
        )
        layout = {
            name: torch.tensor([numbers[0] for numbers in output[name]])
            for name in ("rows", "cols")
        }
        return PreparedPictures(len(images), {name: output[name] for name in TENSORS} | layout)

    def picture_tokens(self, pictures: PreparedPictures) -> list[Tensor]:
        """Tiles and the tokens between them: (image tokens, dim) of each picture."""
        tensors = pictures.tensors
        pixel_values, is_real = tensors["pixel_values"], tensors["pixel_attention_mask"]
        found = self.vlm.model.get_image_features(pixel_values, is_real).pooler_output
        layouts = zip(tensors["rows"].tolist(), tensors["cols"].tolist(), strict=True)
        return [
            self._with_names(tokens, *layout) for tokens, layout in zip(found, layouts, strict=True)
        ]

    def _with_names(self, tokens: Tensor, num_rows: int, num_columns: int) -> Tensor:
        """Tiles (tokens of all tiles, dim) with the text that transformers' processor puts between them."""
        tiles = tokens.chunk(num_rows * num_columns + 1)
        parts = []
        for text, tile in zip(tile_names(num_rows, num_columns), tiles, strict=True):
            ids = torch.tensor(self._ids(text), device=self.device)
            parts += [self.embed(ids), tile]
        return torch.cat(parts)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def tile_names(num_rows: int, num_columns: int) -> list[str]:
    """What stands before each tile and before the whole picture; the very first edge is that of the frame."""
    names = [
        ("\n" if row and not column else "") + f"{EDGE}<row_{row + 1}_col_{column + 1}>"
        for row in range(num_rows)
        for column in range(num_columns)
    ]
    whole = f"\n\n{EDGE}<global-img>" if names else f"{EDGE}<global-img>"
    first, *others = [*names, whole]
    return [first.removeprefix(EDGE), *others]
