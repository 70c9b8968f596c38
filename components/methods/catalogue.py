"""All methods by name, their params, and how each is built. A method more is its file and a line here."""

from collections.abc import Iterable
from functools import partial
from typing import Literal, Self

from pydantic import Field, model_validator

from components.baselines.average_pooling import AveragePooling
from components.baselines.dual_encoder import (
    DUAL_ENCODER,
    DualEncoder,
    DualEncoderParams,
    build_dual_encoder,
    pictures_of,
)
from components.baselines.fastv import AllTokens, FastV, FastVParams
from components.baselines.lvlm_embedder import EMBEDDERS, EmbedderParams, build_embedder
from components.baselines.m3 import MatryoshkaPooled, MatryoshkaPooling, MatryoshkaPoolingParams
from components.baselines.mqt import MatryoshkaQueried, MatryoshkaQueries, MatryoshkaQueriesParams
from components.baselines.prumerge import PruMerge, PruMergeParams, PruMergePlus, PruMergePlusParams
from components.baselines.quecc import QueCC, QueCCParams, QuestionReduced
from components.baselines.single_forward import SingleForward, build_single_forward
from components.baselines.stf import SpatialTokenFusion, SpatialTokenFusionParams
from components.baselines.tokenpacker import TokenPacker, TokenPackerParams
from components.files.code import code_sha256
from components.methods.blocks.image_text_models import OwnPictures
from components.methods.blocks.token_reduction import Reduced, Reducer, nearest_count, seeded
from components.methods.blocks.vision_tower import check_needs, llava_of, tower_shape
from components.methods.double_forward import DoubleForward, build_double_forward
from components.methods.method import Method
from components.methods.method_settings import (
    FWD2BOT,
    SINGLE_FORWARD,
    ChosenMethod,
    CompressorParams,
    NoSettings,
)
from components.model.adapters import GENERATION, AdapterSwitch, attach_adapters
from components.model.backbone import Backbone
from components.params import Params

# of the paper itself
OURS: dict[str, type[DoubleForward]] = {FWD2BOT: DoubleForward, SINGLE_FORWARD: SingleForward}
REDUCERS: dict[str, type[Reducer]] = {
    "average_pooling": AveragePooling,
    "fastv": AllTokens,
    "m3": MatryoshkaPooling,
    "mqt": MatryoshkaQueries,
    "prumerge": PruMerge,
    "prumerge_plus": PruMergePlus,
    "quecc": QueCC,
    "stf": SpatialTokenFusion,
    "tokenpacker": TokenPacker,
}
AROUND: dict[str, type[Reduced]] = {  # reducers that take another LLaVA around them than most
    "fastv": FastV,
    "m3": MatryoshkaPooled,
    "mqt": MatryoshkaQueried,
    "quecc": QuestionReduced,
}
TRAINING_FREE = {"fastv"}
# with modules of their own, which learn alone at first
IN_TWO_STAGES = {"mqt", "quecc", "stf", "tokenpacker"}


class MethodParams(Params):
    """Which method, and the settings of every one."""

    name: Literal[
        "fwd2bot",
        "single_forward",
        "average_pooling",
        "dual_encoder",
        "e5v",
        "fastv",
        "lvlm_zero_shot",
        "m3",
        "mqt",
        "prumerge",
        "prumerge_plus",
        "quecc",
        "stf",
        "tokenpacker",
        "vlm2vec",
    ]
    # of compared methods: as their papers train them, or as they come
    tuning: Literal["trained", "none"]
    # the first, in which modules of a method and the connector learn by themselves
    module_steps: int = Field(ge=0)
    average_pooling: NoSettings
    dual_encoder: DualEncoderParams
    e5v: EmbedderParams
    fastv: FastVParams
    lvlm_zero_shot: NoSettings
    m3: MatryoshkaPoolingParams
    mqt: MatryoshkaQueriesParams
    prumerge: PruMergeParams
    prumerge_plus: PruMergePlusParams
    quecc: QueCCParams
    stf: SpatialTokenFusionParams
    tokenpacker: TokenPackerParams
    vlm2vec: EmbedderParams

    @property
    def chosen(self) -> ChosenMethod:
        """The method that `name` names."""
        settings = {} if self.name in OURS else getattr(self, self.name).model_dump(mode="json")
        return ChosenMethod(name=self.name, tuning=self.tuning, settings=settings)

    @model_validator(mode="after")
    def _leaves_alone_what_is_not_trained(self) -> Self:
        if self.name in TRAINING_FREE and self.tuning != "none":
            raise ValueError(f"method.name: {self.name} trains nothing; set method.tuning to none")
        return self

    @property
    def num_module_steps(self) -> int:
        """The first steps, in which the language model does not learn; 0 where there are no new modules."""
        return self.module_steps if self.name in IN_TWO_STAGES else 0


def kind_of(name: str) -> type[Method]:
    """The class of a method."""
    others: dict[str, type[Method]] = {DUAL_ENCODER: DualEncoder, **OURS, **EMBEDDERS, **AROUND}
    return others.get(name, Reduced)


def code_of(entries: Iterable[str], name: str) -> str:
    """A hash of the code of a run with one method: the modules that `entries` import.

    Of those that methods are written in only its own count, and what they import: this file imports
    all, but a run calls nothing of the others.
    """
    own = _modules_of(name)
    others = set().union(*map(_modules_of, (DUAL_ENCODER, *OURS, *EMBEDDERS, *REDUCERS))) - own
    return code_sha256(entries, without=others) + code_sha256(own)


def _modules_of(name: str) -> set[str]:
    return {kind.__module__ for kind in (kind_of(name), REDUCERS.get(name)) if kind}


def build_method(
    backbone: Backbone, params: CompressorParams, method: ChosenMethod, seed: int
) -> Method:
    """An untrained method on a base model, in place. Raises ValueError when the two do not go together."""
    if method.name == FWD2BOT:
        return build_double_forward(backbone, params, seed)
    if method.name == SINGLE_FORWARD:
        return build_single_forward(backbone, params, seed)
    if method.name == DUAL_ENCODER:
        return build_dual_encoder(backbone, params, method, seed)
    if method.name in EMBEDDERS:
        return build_embedder(backbone, params, method, seed)
    return build_reduced(backbone, params, method, seed)


def preparer_of(backbone: Backbone, method: ChosenMethod) -> Backbone | OwnPictures:
    """What prepares pictures for a method, of which no weights are needed."""
    own = pictures_of(backbone, method) if method.name == DUAL_ENCODER else None
    return own or backbone


def build_reduced(
    backbone: Backbone, params: CompressorParams, method: ChosenMethod, seed: int
) -> Reduced:
    """A reducer with the number of tokens nearest to the wanted one that it allows; `params` of the result have it."""
    llava, kind = llava_of(backbone, method.name), REDUCERS[method.name]
    shape = tower_shape(llava)
    settings = kind.Settings.model_validate(method.settings, strict=False)  # lists as tuples
    count = nearest_count(params.num_summary_tokens, kind.counts(shape, settings))
    reducer = seeded(seed, partial(kind, shape, count, settings, llava.connect_patches))
    check_needs(llava, reducer.needs)
    if method.tuning == "none":
        adapters = AdapterSwitch(backbone.vlm, {GENERATION: None})
        reducer.requires_grad_(False)
    else:
        adapters = attach_adapters(backbone, params.adapters, (GENERATION,), seed, in_tower=False)
        if kind.uses_connector:
            backbone.train_connector()
    params = params.model_copy(update={"num_summary_tokens": count})
    return AROUND.get(method.name, Reduced)(backbone, adapters, reducer, params, method)
