"""All methods by name, their params, and how each is built. A method more is its file and a line here."""

from functools import partial
from typing import Literal

from components.methods.average_pooling import AveragePooling, AveragePoolingParams
from components.methods.double_forward import DoubleForward, build_double_forward
from components.methods.dual_encoder import (
    DUAL_ENCODER,
    DualEncoder,
    DualEncoderParams,
    build_dual_encoder,
    pictures_of,
)
from components.methods.image_text_models import OwnPictures
from components.methods.lvlm_embedder import EMBEDDERS, EmbedderParams, ZeroShotParams, build_embedder
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

    name: Literal["fwd2bot", "average_pooling", "dual_encoder", "e5v", "lvlm_zero_shot", "vlm2vec"]
    tuning: Literal["trained", "none"]  # of compared methods: as their papers train them, or as they come
    module_steps: int  # the first, in which only what a method adds and the connector learn, not the language model
    average_pooling: AveragePoolingParams
    dual_encoder: DualEncoderParams
    e5v: EmbedderParams
    lvlm_zero_shot: ZeroShotParams
    vlm2vec: EmbedderParams

    @property
    def chosen(self) -> ChosenMethod:
        """The method that `name` names."""
        settings = {} if self.name == FWD2BOT else getattr(self, self.name).model_dump(mode="json")
        return ChosenMethod(name=self.name, tuning=self.tuning, settings=settings)

    @property
    def num_module_steps(self) -> int:
        """The first steps, in which the language model does not learn; 0 where it is all that does."""
        return self.module_steps if self.name in REDUCERS else 0


def class_of(name: str) -> type[Method]:
    """What a method is built as."""
    return {FWD2BOT: DoubleForward, DUAL_ENCODER: DualEncoder, **EMBEDDERS}.get(name, Reduced)


def losses_of(name: str) -> tuple[str, ...]:
    """The losses that teach a method."""
    return class_of(name).losses


def build_method(backbone: Backbone, params: CompressorParams, method: ChosenMethod, seed: int) -> Method:
    """An untrained method on a base model, in place. Raises ValueError when the two do not go together."""
    if method.name == FWD2BOT:
        return build_double_forward(backbone, params, seed)
    if method.name == DUAL_ENCODER:
        return build_dual_encoder(backbone, params, method, seed)
    if method.name in EMBEDDERS:
        return build_embedder(backbone, params, method, seed)
    return build_reduced(backbone, params, method, seed)


def preparer_of(backbone: Backbone, method: ChosenMethod) -> Backbone | OwnPictures:
    """What prepares pictures for a method, of which no weights are needed."""
    own = pictures_of(backbone, method) if method.name == DUAL_ENCODER else None
    return own or backbone


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
