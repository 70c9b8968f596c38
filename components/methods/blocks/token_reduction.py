"""Methods that make an image's tokens fewer before the language model reads them: a reducer, and LLaVA around it.

A reducer is a module from what the vision tower says to visual tokens. It is trained as its paper
does: first alone, then with the connector and the language model (an adapter here), by the
autoregressive loss. Retrieval is that of Tables 9 and 10: the language model reads the tokens and
sums them up in one word (arXiv 2407.12580).
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from components.methods.blocks.last_word import (
    image_in_one_word,
    num_tokens_around_text,
    text_in_one_word,
)
from components.methods.blocks.vision_tower import Needs, Reading, TowerShape, llava_of, read_tower
from components.methods.method import AUTOREGRESSIVE, Method
from components.methods.method_settings import ChosenMethod, CompressorParams
from components.model.adapters import GENERATION, AdapterSwitch
from components.model.backbone import Backbone
from components.model.prepared import PreparedPictures
from components.model.segments import picture_segment
from components.params import Params

Connect = Callable[[Tensor], Tensor]  # the base model's connector: (…, channels) -> (…, dim)


class Reducer(nn.Module):
    """From a Reading to visual tokens, (pictures, num_tokens, dim). `connect` takes patches into the language model."""

    Settings: ClassVar[type[Params]]  # what its section of `train.method` holds
    uses_connector: ClassVar[bool]  # which is then trained with it
    needs: Needs = Needs()

    def __init__(self, shape: TowerShape, num_tokens: int, settings: Any, connect: Connect) -> None:
        super().__init__()
        self.shape = shape
        self.num_tokens = num_tokens
        self.connect = connect

    @staticmethod
    def counts(shape: TowerShape, settings: Any) -> Sequence[int]:
        """The numbers of tokens that the algorithm allows."""
        raise NotImplementedError

    def forward(self, reading: Reading) -> Tensor:
        raise NotImplementedError


class Reduced(Method):
    """A LLaVA that reads what a reducer makes of a picture."""

    losses = (AUTOREGRESSIVE,)
    parts = ("reducer",)
    embeds_by_mean = False

    def __init__(
        self,
        backbone: Backbone,
        adapters: AdapterSwitch,
        reducer: Reducer,
        params: CompressorParams,
        chosen: ChosenMethod,
    ) -> None:
        super().__init__(backbone, adapters, params)
        self.chosen = chosen
        self.reducer = reducer
        self.to(backbone.device)

    def compress_pictures(self, pictures: PreparedPictures) -> Tensor:
        """What the reducer makes of the pictures: (pictures, tokens, dim)."""
        return self.reducer(self.reading(pictures))

    def reading(self, pictures: PreparedPictures) -> Reading:
        """What the tower says of the pictures, as far as the reducer wants it."""
        return read_tower(llava_of(self.backbone, "this method"), pictures, self.reducer.needs)

    def make(self, num_tokens: int) -> None:
        """From now on another number of tokens of a picture, which the reducer must allow."""
        self.reducer.num_tokens = num_tokens
        self.params = self.params.model_copy(update={"num_summary_tokens": num_tokens})

    def embed_pictures(self, summary_tokens: Tensor) -> Tensor:
        """What the language model says of the tokens in one word, before it is said."""
        pictures = picture_segment(
            list(summary_tokens.to(self.backbone.device, self.backbone.dtype))
        )
        return image_in_one_word(self, GENERATION, pictures)

    def embed_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What it says of a text in one word."""
        return text_in_one_word(self, GENERATION, input_ids, attention_mask)

    @property
    def num_tokens_around_text(self) -> int:
        """The chat that asks for one word."""
        return num_tokens_around_text(self.backbone)

    def own_tensors(self) -> dict[str, Tensor]:
        """The weights of the reducer."""
        return {
            f"reducer.{name}": tensor.detach() for name, tensor in self.reducer.state_dict().items()
        }


def nearest_count(wanted: int, allowed: Sequence[int]) -> int:
    """The allowed number of tokens nearest to the wanted one; of two, the smaller."""
    return min(allowed, key=lambda count: (abs(count - wanted), count))


def square_counts(shape: TowerShape) -> list[int]:
    """How many square cells a grid of patches can be cut into."""
    return [
        (shape.side // cell) ** 2 for cell in range(shape.side, 0, -1) if shape.side % cell == 0
    ]


def check_heads(setting: str, num_heads: int, width: int) -> None:
    """Raises ValueError when an attention of this width cannot have so many heads."""
    if width % num_heads:
        raise ValueError(
            f"{setting}: {width} channels of the vision tower cannot be split into {num_heads} heads"
        )


def cells(patches: Tensor, num_cells: int) -> Tensor:
    """Patches (pictures, side², channels) in raster order -> (pictures, num_cells, patches of a cell, channels).

    Cells are square and in raster order, and so are the patches of a cell.
    """
    side, per_side = round(patches.shape[1] ** 0.5), round(num_cells**0.5)
    grid = patches.unflatten(1, (per_side, side // per_side, per_side, side // per_side))
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def seeded(seed: int, build: Callable[[], Reducer]) -> Reducer:
    """A reducer whose first weights follow from a seed; the random numbers of the process go on as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
