"""Token reduction: a reducer makes image tokens fewer before LLaVA's language model reads them.

A reducer is a module that makes visual tokens of the vision tower's states. It is trained as in its
paper: first alone, then with the connector and the language model (an adapter here), by the
autoregressive loss. Retrieval works as in Tables 9 and 10: the language model reads the tokens and
sums them up in one word (arXiv 2407.12580).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from components.methods.blocks.last_word import (
    num_tokens_around_text,
    picture_last_words,
    text_last_words,
)
from components.methods.blocks.vision_tower import (
    Needs,
    Reading,
    TowerShape,
    check_needs,
    llava_of,
    read_tower,
    tower_shape,
)
from components.methods.method import AUTOREGRESSIVE, Method, MethodModule
from components.methods.method_settings import ChosenMethod, CompressorParams
from components.model.adapters import GENERATION, AdapterSwitch, attach_adapters
from components.model.backbone import Backbone
from components.model.prepared import PreparedPictures
from components.model.segments import picture_segment
from components.params import Params

Connect = Callable[[Tensor], Tensor]  # the base model's connector: (…, channels) -> (…, dim)


class Reducer(nn.Module):
    """From a Reading to visual tokens, (pictures, num_tokens, dim).

    `connect` takes patches into the language model.
    """

    Settings: ClassVar[type[Params]]  # the contents of its method's YAML file
    uses_connector: ClassVar[bool]  # which is then trained with it
    needs: Needs = Needs()

    def __init__(self, shape: TowerShape, num_tokens: int, settings: Any, connect: Connect) -> None:
        super().__init__()
        self.shape = shape
        self.num_tokens = num_tokens
        self.connect = connect

    @staticmethod
    def counts(shape: TowerShape, settings: Any) -> Sequence[int]:
        """Return the numbers of tokens that the algorithm allows."""
        raise NotImplementedError

    def forward(self, reading: Reading) -> Tensor:
        raise NotImplementedError


class Reduced(Method):
    """A LLaVA that reads the tokens a reducer makes of a picture."""

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
        """Return the reducer's tokens of the pictures: (pictures, tokens, dim)."""
        return self.reducer(self.reading(pictures))

    def reading(self, pictures: PreparedPictures) -> Reading:
        """Read of the vision tower what the reducer needs."""
        return read_tower(llava_of(self.backbone, "this method"), pictures, self.reducer.needs)

    def make(self, num_tokens: int) -> None:
        """Make another number of tokens of a picture from now on, which the reducer must allow."""
        self.reducer.num_tokens = num_tokens
        self.params = self.params.model_copy(update={"num_summary_tokens": num_tokens})

    def embed_pictures(self, summary_tokens: Tensor) -> Tensor:
        """Embed pictures by the one word that the language model is about to say of them."""
        tokens = summary_tokens.to(self.backbone.device, self.backbone.dtype)
        return picture_last_words(self, GENERATION, picture_segment(list(tokens)))

    def embed_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed texts by the one word that the language model is about to say of them."""
        return text_last_words(self, GENERATION, input_ids, attention_mask)

    @property
    def num_tokens_around_text(self) -> int:
        """The length of the chat that asks for one word."""
        return num_tokens_around_text(self.backbone)

    def own_tensors(self) -> dict[str, Tensor]:
        """Return the weights of the reducer."""
        weights = self.reducer.state_dict()
        return {f"reducer.{name}": tensor.detach() for name, tensor in weights.items()}


def reducing_method(
    reducer: type[Reducer], model: type[Reduced] = Reduced, num_stages: Literal[0, 1, 2] = 1
) -> MethodModule:
    """Describe a method that is a LLaVA around a reducer; see MethodModule for the stages."""
    build = partial(build_reduced, reducer, model)
    return MethodModule(model, reducer.Settings, num_stages, build)


def build_reduced(
    reducer: type[Reducer],
    model: type[Reduced],
    backbone: Backbone,
    params: CompressorParams,
    chosen: ChosenMethod,
    seed: int,
) -> Reduced:
    """Build a LLaVA around an untrained reducer, in place.

    Its number of tokens, also in the `params` of the result, is the nearest to the wanted one that
    the reducer allows. Raises ValueError when the base model does not fit.
    """
    # an algorithm may not allow the wanted number of tokens
    llava = llava_of(backbone, chosen.name)
    shape = tower_shape(llava)
    settings = reducer.Settings.model_validate(chosen.settings, strict=False)  # lists as tuples
    count = nearest_count(params.num_summary_tokens, reducer.counts(shape, settings))

    # The first weights follow from the seed; the random numbers of the process go on as before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = reducer(shape, count, settings, llava.connect_patches)
    check_needs(llava, module.needs)

    # what is trained: the reducer, an adapter, and the connector if the reducer goes through it
    if chosen.tuning == "none":
        adapters = AdapterSwitch(backbone.vlm, {GENERATION: None})
        module.requires_grad_(False)
    else:
        adapters = attach_adapters(backbone, params.adapters, (GENERATION,), seed, in_tower=False)
        if reducer.uses_connector:
            backbone.train_connector()
    params = params.model_copy(update={"num_summary_tokens": count})
    return model(backbone, adapters, module, params, chosen)


def nearest_count(wanted: int, allowed: Sequence[int]) -> int:
    """Return the allowed number of tokens nearest to the wanted one; of two, the smaller."""
    return min(allowed, key=lambda count: (abs(count - wanted), count))


def square_counts(shape: TowerShape) -> list[int]:
    """Return the numbers of square cells that a grid of patches can be cut into."""
    sides = range(shape.side, 0, -1)
    return [(shape.side // side) ** 2 for side in sides if shape.side % side == 0]


def check_heads(file: str, num_heads: int, width: int) -> None:
    """Raise ValueError when an attention of this width cannot have so many heads."""
    if width % num_heads:
        raise ValueError(
            f"{file}: num_heads: {width} channels of the vision tower cannot be split into "
            f"{num_heads} heads"
        )


def mlp(in_features: int, hidden: int, out_features: int) -> nn.Sequential:
    """Build an MLP of two layers with GELU."""
    return nn.Sequential(nn.Linear(in_features, hidden), nn.GELU(), nn.Linear(hidden, out_features))
