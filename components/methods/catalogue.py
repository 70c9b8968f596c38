"""All methods by name, their params, and how each is built. A method more is its file and a line here."""

from functools import partial
from typing import Literal

from components.methods.average_pooling import AveragePooling, AveragePoolingParams
from components.methods.double_forward import DoubleForward, build_double_forward
from components.methods.method import FWD2BOT, ChosenMethod, CompressorParams, Method
from components.methods.reduced import Reduced, Reducer, nearest_count, seeded
from components.methods.tower import llava_of, tower_shape
from components.model.adapters import GENERATION, AdapterSwitch, attach_adapters
from components.model.backbone import Backbone
from components.params import Params

REDUCERS: dict[str, type[Reducer]] = {
    "average_pooling": AveragePooling,
}


class MethodParams(Params):
    """Which method, and the settings of every one."""

    name: Literal["fwd2bot", "average_pooling"]
    tuning: Literal["trained", "none"]  # of compared methods: as their papers train them, or as they come
    module_steps: int  # the first, in which only what a method adds and the connector learn, not the language model
    average_pooling: AveragePoolingParams

    @property
    def chosen(self) -> ChosenMethod:
        """The method that `name` names."""
        settings = {} if self.name == FWD2BOT else getattr(self, self.name).model_dump(mode="json")
        return ChosenMethod(name=self.name, tuning=self.tuning, settings=settings)


def kind_of(name: str) -> type[Method]:
    """What a method is, before it is built: its losses, and what it cannot do."""
    return DoubleForward if name == FWD2BOT else Reduced


def build_method(backbone: Backbone, params: CompressorParams, method: ChosenMethod, seed: int) -> Method:
    """An untrained method on a base model, in place. Raises ValueError when the two do not go together."""
    if method.name == FWD2BOT:
        return build_double_forward(backbone, params, seed)
    return build_reduced(backbone, params, method, seed)


def build_reduced(backbone: Backbone, params: CompressorParams, method: ChosenMethod, seed: int) -> Reduced:
    """A reducer with the number of tokens nearest to the wanted one that it allows; `params` of the result have it."""
    llava, kind = llava_of(backbone, method.name), REDUCERS[method.name]
    shape = tower_shape(llava)
    settings = kind.Settings.model_validate(method.settings, strict=False)  # lists as tuples
    count = nearest_count(params.num_summary_tokens, kind.counts(shape, settings))
    reducer = seeded(seed, partial(kind, shape, count, settings, llava.connect_patches))
    if method.tuning == "none":
        adapters = AdapterSwitch(backbone.vlm, {GENERATION: None})
        reducer.requires_grad_(False)
    else:
        adapters = attach_adapters(backbone, params.adapters, (GENERATION,), seed, in_tower=False)
        if kind.uses_connector:
            backbone.train_connector()
    return Reduced(backbone, adapters, reducer, params.model_copy(update={"num_summary_tokens": count}), method)
